"""What the audit's models have in common: who is left out, and when a result would mean nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

MIN_PATIENTS = 10
"""Patients that each side needs before a cross-validated AUC means anything."""
_FOLDS = 5


def too_few_patients(target: np.ndarray, patients: np.ndarray) -> str:
    """Why there would be no meaning in telling `target`, bool [images], apart; "" where there is.

    Args:
      target: which side each image is on.
      patients: of each image, text [images].
    """
    one, other = (len(set(patients[target == side])) for side in (False, True))
    if min(one, other) >= MIN_PATIENTS:
        return ""
    return f"needs at least {MIN_PATIENTS} patients on either side; there are {one} and {other}"


def patient_folds() -> Any:
    """Folds stratified by class that keep patients together; the same for the same images."""
    from sklearn.model_selection import StratifiedGroupKFold

    return StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)

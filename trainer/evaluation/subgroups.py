"""Evaluation by subgroup: view, age band, sex and site, where the data set knows them."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer.evaluation.metrics import evaluate_predictions
from trainer.evaluation.operating_point import OperatingPoint
from trainer.evaluation.predictions import Predictions

AGE_BANDS = ((0, 18), (18, 40), (40, 60), (60, 80), (80, 200))
"""Ages in years from the first number to below the second."""
FEWEST = 10
"""Images that a subgroup needs to be evaluated; smaller ones are counted only."""


def evaluate_subgroups(
    predictions: Predictions, point: OperatingPoint, positive: str | None = None, bootstrap: int = 1000
) -> dict[str, dict[str, Any]]:
    """Metrics of each subgroup at the same operating point.

    Args:
      predictions: of one split.
      point: the thresholds.
      positive: see `evaluate_predictions`.
      bootstrap: replicates of the intervals.

    Returns:
      By group (`view`, `age`, `sex`, `site`) and value: `images`, `patients`, and `metrics` as `evaluate_predictions`
      gives them, None for fewer than `FEWEST` images. Images of which a group is not known are left out of it; a group
      of one value only is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for group, texts in predictions.subgroups.items():
        values = np.array([band_of(text) for text in texts], str) if group == "age" else texts
        names = sorted({*values.tolist()} - {""}, key=lambda name: (len(name), name) if group == "age" else (0, name))
        if len(names) < 2:
            continue
        found[group] = {}
        for name in names:
            part = predictions.subset(values == name)
            patients = int(part.groups().max()) + 1
            whole = evaluate_predictions(part, point, positive, bootstrap) if len(part) >= FEWEST else None
            found[group][name] = {"images": len(part), "patients": patients, "metrics": whole and whole["metrics"]}
    return found


def band_of(age: str) -> str:
    """The age band of an age in years, such as `18-39`; nothing where it is not known."""
    try:
        years = float(age)
    except ValueError:
        return ""
    for low, high in AGE_BANDS:
        if low <= years < high:
            return f"{low}+" if high == AGE_BANDS[-1][1] else f"{low}-{high - 1}"
    return ""

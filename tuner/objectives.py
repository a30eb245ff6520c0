"""What a search may look for the best of."""

from __future__ import annotations

import dataclasses

from trainer.train_config import MONITORS


@dataclasses.dataclass(frozen=True)
class Objective:
    """One of the objectives.

    Attributes:
      direction: `max` or `min`.
      monitor: validation metric of each epoch that the best epoch is chosen by, and trials are pruned by.
      shift_metric: metric under the shift suite that the score is the worst of; None where the score is the monitor's.
      text: what it is, in a line.
    """

    direction: str
    monitor: str
    shift_metric: str | None
    text: str


OBJECTIVES: dict[str, Objective] = {
    **{
        name: Objective(direction, name, None, f"{name[4:].replace('_', ' ')} on validation, of the best epoch")
        for name, direction in MONITORS.items()
    },
    "worst_auc": Objective(
        "max", "val_auc", "roc_auc", "lowest ROC AUC on validation as it is and under each shift of `cxr evaluate`"
    ),
    "worst_balanced_accuracy": Objective(
        "max", "val_auc", "balanced_accuracy",
        "lowest mean of recall and specificity on validation as it is and under each of those shifts, at the operating "
        "point that `cxr evaluate` would choose",
    ),
}  # fmt: skip
"""By name. The last two ask for what survives on images that were compressed, blurred or exposed otherwise; each trial
is evaluated once under the whole shift suite, which takes about as long as an epoch."""

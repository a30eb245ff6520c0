"""Objectives that a search can optimise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainer.train_config import MONITORS


@dataclasses.dataclass(frozen=True)
class Objective:
    """An objective.

    Attributes:
      direction: `max` or `min`.
      monitor: validation metric that chooses the best epoch, and by which trials are pruned.
      shift_metric: the score is the worst value of this metric under the shift suite; None: the score is the monitor's.
      text: a line for people.
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
"""By name. The last two measure how a model does on images that were compressed, blurred or exposed differently; each
trial is evaluated once under the whole shift suite, which takes about as long as an epoch."""


def metric_values(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an evaluation's metrics by name, and `balanced_accuracy`, the mean of recall and specificity.

    One that is undefined is None, such as the precision of a model that finds nothing.
    """
    values = {name: entry["value"] for name, entry in metrics.items()}
    return {**values, "balanced_accuracy": (values["recall"] + values["specificity"]) / 2}

"""Where a probability becomes a decision: thresholds chosen on one split, by a rule, and applied to others.

A threshold has to hold on images that it was not chosen on. Any value between two neighbouring scores makes the same
decisions on the split at hand, and the ends of that gap are the worst of them: the next image that scores a
little lower or higher falls on the wrong side. So a threshold lies in the middle of its gap, in logits, where the
scores of a classifier spread evenly however sure it is; and of gaps that are equally good by the rule, the widest
is taken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxr.errors import DatasetError, InputError
from cxr.files import write_json
from trainer.evaluation.predictions import Predictions, Task, task_of

RULES = "youden, recall=R, specificity=S, threshold=T, argmax or auto"
_PLAIN_RULES = ("auto", "youden", "argmax")
_VALUED_RULES = ("recall", "specificity", "threshold")
_LARGEST_BELOW_ONE = 1 - 2.0**-26  # where float32 scores of 1 are taken to be; the next score below is 1 - 2**-24
_SMALLEST_ABOVE_ZERO = 2.0**-150


def parse_rule(rule: str, task: Task | None = None) -> tuple[str, float]:
    """A rule's name and its number, NaN where it has none; `auto` as what it is for the task.

    Args:
      rule: `youden`: the threshold of the greatest recall + specificity - 1 (Youden, Cancer 1950).
        `recall=0.95`: the highest threshold with at least this recall. `specificity=0.9`: the lowest with at least
        this specificity. `threshold=0.5`: this one. `argmax`: the label of the greatest probability. `auto`: `youden`
        for binary and multi-label tasks, with 0.5 for a label that all images have or none; `argmax` for multi-class.
      task: to check the rule against, where it is known already.

    Raises:
      InputError: no such rule, a number out of range, or not a rule for the task.
    """
    name, equals, value = rule.partition("=")
    number = math.nan
    if name in _VALUED_RULES:
        with contextlib.suppress(ValueError):
            number = float(value)
    plain = name in _PLAIN_RULES and not equals
    if not (plain or 0 < number <= 1 or (number == 0 and name == "threshold")):
        raise InputError(f"operating point {rule!r}: expected {RULES}, with numbers such as recall=0.95")
    if name == "auto" and task:
        name = "argmax" if task == "multi-class" else "youden"
    if task == "multi-class" and name != "argmax":
        raise InputError(
            f"operating point {rule!r} is for two labels or for several labels an image. With one label of more than "
            "two, a threshold for each could choose none or several of them; use argmax or auto."
        )
    if task == "multi-label" and name == "argmax":
        raise InputError(
            "operating point 'argmax' chooses one label; with several an image use youden or threshold=0.5"
        )
    return name, number


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """Thresholds on probabilities, and where they come from.

    Attributes:
      rule: see `parse_rule`; never `auto`.
      thresholds: by label; a label is predicted where its probability is not below. Of the positive label for a
        binary task, of each label for multi-label; empty for argmax.
      chosen_on: name of the split on which they were chosen.
    """

    rule: str
    thresholds: dict[str, float]
    chosen_on: str = "val"

    def __post_init__(self):
        name, _ = parse_rule(self.rule)
        if name == "auto" or (name == "argmax") == bool(self.thresholds):
            raise InputError(f"operating point {self.rule!r} cannot have the thresholds {self.thresholds}")
        wrong = [value for value in self.thresholds.values() if not 0 <= value <= 1]
        if wrong:
            raise InputError(f"threshold {wrong[0]!r}: expected a probability from 0 to 1")

    @classmethod
    def choose(cls, predictions: Predictions, rule: str = "auto", positive: str | None = None) -> OperatingPoint:
        """Thresholds by a rule, see `parse_rule`, on the validation split, not on the one to report on.

        `positive` is the label that a binary threshold is on; None is the second.

        Raises:
          InputError: no such rule, or not one for this task; the split lacks the images that the rule counts.
        """
        labels, multi_label = predictions.labels, predictions.multi_label
        if given := cls.given(rule, labels, multi_label, positive):
            return given
        name, number = parse_rule(rule, predictions.task)
        thresholds = {}
        for label in labels if multi_label else [labels[predictions.label_index(positive)]]:
            truth, scores = predictions.against_rest(label)
            if rule == "auto" and multi_label and len(np.unique(truth)) < 2:
                thresholds[label] = 0.5
                continue
            where = f"operating point {rule!r} for label {label!r} on the validation split"
            thresholds[label] = _threshold(scores, truth == 1, name, number, where)
        return cls(name if rule == "auto" else rule, thresholds)

    @classmethod
    def given(cls, rule: str, labels: Sequence[str], multi_label: bool, positive: str | None) -> OperatingPoint | None:
        """The point of a rule that needs no split to choose on, `threshold=T` or `argmax`; None for other rules.

        `positive` is the label that a binary threshold is on; None is the last.

        Raises:
          InputError: no such rule, or not one for this task.
        """
        name, number = parse_rule(rule, task_of(labels, multi_label))
        if name == "argmax":
            return cls(name, {})
        if name != "threshold":
            return None
        return cls(rule, dict.fromkeys(labels if multi_label else [positive or labels[-1]], number))

    def apply(self, predictions: Predictions) -> np.ndarray:
        """Decisions: int32 [images], indices into labels; uint8 [images, labels] where multi-label.

        Raises InputError where the thresholds are not for these labels.
        """
        named, known = set(self.thresholds), set(predictions.labels)
        one_of_two = len(named) == 1 and len(known) == 2 and named <= known
        if not (named == known if predictions.multi_label else not named or one_of_two):
            raise InputError(
                f"the operating point has thresholds for {', '.join(self.thresholds) or 'no label'}; "
                f"the predictions are {predictions.task}, of {', '.join(predictions.labels)}"
            )
        probabilities = predictions.probabilities.astype(np.float64)
        if predictions.multi_label:
            return (probabilities >= [self.thresholds[label] for label in predictions.labels]).astype(np.uint8)
        if not self.thresholds:
            return probabilities.argmax(axis=1).astype(np.int32)
        ((label, threshold),) = self.thresholds.items()
        column = predictions.label_index(label)
        return np.where(probabilities[:, column] >= threshold, column, 1 - column).astype(np.int32)

    def to_json(self) -> dict[str, Any]:
        """As values that JSON has."""
        return dataclasses.asdict(self)


def write_operating_point(path: Path, point: OperatingPoint, weights: str) -> None:
    """Writes a point atomically, with a digest of the weights that it was chosen for."""
    write_json(path, {**point.to_json(), "weights": weights})


def read_operating_point(path: Path, weights: str) -> OperatingPoint | None:
    """What was chosen for these weights, or None; raises DatasetError where the file is damaged."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        chosen_for = fields.pop("weights", None)
        point = OperatingPoint(**fields)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, InputError) as error:
        raise DatasetError(f"{path} cannot be read: {error}. `cxr evaluate` writes it anew") from error
    return point if chosen_for == weights else None


def _threshold(scores: np.ndarray, truth: np.ndarray, name: str, number: float, where: str) -> float:
    """Threshold on scores, float64 [images], of the images that have the label, bool [images]."""
    positives, negatives = int(truth.sum()), int((~truth).sum())
    needed = {"youden": {"with": positives, "without": negatives}, "recall": {"with": positives}}
    for kind, count in needed.get(name, {"without": negatives}).items():
        if not count:
            raise InputError(
                f"{where}: it has no image {kind} the label, so {name} cannot be measured on it; "
                "choose on another split, or use threshold=0.5"
            )
    levels, level = np.unique(scores, return_inverse=True)
    # Candidate i lies below levels[i]; the last is above all. What it finds are the images from levels[i] on.
    found = positives - np.concatenate([[0], np.cumsum(np.bincount(level, truth))]).astype(int)
    wrong = negatives - np.concatenate([[0], np.cumsum(np.bincount(level, ~truth))]).astype(int)
    count = len(levels) + (levels[-1] < 1)  # no threshold is above 1
    found, wrong = found[:count], wrong[:count]
    if name == "youden":
        excess = found * negatives - wrong * positives  # J in whole numbers, so that equal ones are equal
        widths = np.diff(_logit(np.concatenate([[levels[0] / 2], levels, [(1 + levels[-1]) / 2]])))
        best = np.flatnonzero(excess == excess.max())
        chosen = best[widths[best].argmax()]
    elif name == "recall":
        chosen = np.flatnonzero(found >= number * positives - 1e-9)[-1]
    else:
        enough = np.flatnonzero(negatives - wrong >= number * negatives - 1e-9)
        if not len(enough):
            raise InputError(
                f"{where} cannot be reached: {wrong[-1]} of {negatives} images without the label have the probability "
                "1, and no threshold is above it. The model is saturated: choose another rule, or train with label "
                "smoothing."
            )
        chosen = enough[0]
    return _between(levels, int(chosen))


def _between(levels: np.ndarray, place: int) -> float:
    """The threshold half-way between levels[place - 1] and levels[place], in logits; beyond the ends, to 0 or 1."""
    if place == 0:
        return float(levels[0] / 2)
    if place == len(levels):
        return float((1 + levels[-1]) / 2)
    return 1 / (1 + math.exp(-float(_logit(levels[place - 1 : place + 1]).mean())))


def _logit(scores: np.ndarray) -> np.ndarray:
    scores = scores.clip(_SMALLEST_ABOVE_ZERO, _LARGEST_BELOW_ONE)
    return np.log(scores) - np.log1p(-scores)

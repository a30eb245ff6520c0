"""What a classifier is worth on a split, with intervals, and the curves that a report draws.

Intervals are percentiles of a bootstrap by patient: patients are drawn with replacement, each with all of its
images, because images of one patient are alike and count for less than as many of different ones (Field and Welsh,
"Bootstrapping clustered data", J. R. Stat. Soc. B 2007). A replicate is a whole-number weight for each image, so many
replicates share one sort of the scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from trainer.evaluation.operating_point import OperatingPoint
from trainer.evaluation.predictions import Predictions, one_hot

METRICS = ("accuracy", "precision", "recall", "specificity", "f1", "roc_auc", "pr_auc", "brier", "calibration_error")
ERROR_METRICS = ("brier", "calibration_error")
"""Those of METRICS that are better the lower they are."""
CALIBRATION_BINS = 15
LEVEL = 0.95
"""Share of the replicates within an interval."""
SEED = 0
"""Of the replicates."""
_CHUNK_WEIGHTS = 1 << 17  # 1 MB for each float64 array [replicates, images]: the cache of a core


def evaluate_predictions(
    predictions: Predictions, operating_point: OperatingPoint, positive: str | None = None, bootstrap: int = 1000
) -> dict[str, Any]:
    """All metrics of one split with intervals.

    One label against the rest, with `accuracy`, `precision`, `recall`, `specificity` and `f1` of the decisions and
    these of the probabilities: `roc_auc` and `pr_auc` (`rank_metrics`), `brier`, the mean squared error, and
    `calibration_error`, the mean distance between probability and frequency over 15 bins of equal width (Naeini et al.,
    AAAI 2015; Guo et al., ICML 2017). Bins of equal width stay where they are in every replicate and under every shift.
    The calibration error of few images is too high by chance, and that of a replicate more so: its interval may lie
    above its value.

    Args:
      positive: label that the metrics of a binary task are of; None is the one with the threshold, or the second.
      bootstrap: replicates, at least 0; 0 leaves the intervals out.

    Returns:
      What JSON can hold. `metrics` by name: `value`, `low` and `high`, of the positive label of a binary task, else
      the mean over the labels for which there is one; `accuracy` of a task with one label an image is the share of
      images decided rightly. `per_label` by label, each against the rest. None stands for what is undefined: a metric
      that would divide by zero, an interval from fewer than two patients. A replicate in which a metric is undefined
      is left out of its interval. `confusion`: rows true, columns predicted, in the order of the labels; or by label
      [[tn, fp], [fn, tp]] where multi-label. An image counts for the labels that are known of it. Beside them what they
      are of: `task`, `labels`, `positive`, `images`, `patients`, `unknown` (images by label), `operating_point`,
      and `level`, `bootstrap` and `seed`.

    Raises:
      InputError: an operating point for other labels.
    """
    predicted = operating_point.apply(predictions)
    decided = predicted if predictions.multi_label else one_hot(predicted, len(predictions.labels))
    if predictions.task == "binary":
        column = predictions.label_index(positive or next(iter(operating_point.thresholds), None))
    patients = predictions.groups()
    count = int(patients.max()) + 1

    measure = _Measure(predictions, decided, patients)
    values = measure(np.ones((1, count)))
    replicates = np.concatenate([values[:0], *_bootstrap(measure, count, len(predictions), bootstrap)])
    if predictions.task == "binary":
        overall = [part[:, column] for part in (values, replicates)]
    else:
        overall = [_over_labels(part, ~np.isnan(values[0]), predictions.multi_label) for part in (values, replicates)]
    labels = list(predictions.labels)
    return {
        "task": predictions.task, "labels": labels,
        "positive": labels[column] if predictions.task == "binary" else None,
        "images": len(predictions), "patients": count, "unknown": _unknown(predictions),
        "operating_point": operating_point.to_json(),
        "level": LEVEL, "bootstrap": bootstrap, "seed": SEED,
        "metrics": _summary(*overall),
        "per_label": {label: _summary(values[:, at], replicates[:, at]) for at, label in enumerate(labels)},
        "confusion": _confusion(predictions, predicted),
    }  # fmt: skip


def quick_metrics(predictions: Predictions, positive: str | None = None) -> dict[str, float]:
    """A few metrics without decisions or intervals, for after each epoch.

    `positive` is the label that `pr_auc` of a binary task is of; None is the second.

    Returns:
      `loss`: mean log loss, of all labels where multi-label, with probabilities clipped at 1e-7. `accuracy`: of the
      most probable label, or of each label at 0.5 where multi-label. `auc`, `pr_auc`: see `rank_metrics`, the mean over
      the labels for which they are defined. NaN where undefined for all.
    """
    truth, known = predictions.truth_matrix, predictions.known
    probabilities = predictions.probabilities.astype(np.float64)
    likelihoods = np.where(truth == 1, probabilities, 1 - probabilities)
    if predictions.multi_label:
        correct = ((probabilities >= 0.5) == (truth == 1))[known]
        likelihoods = likelihoods[known]
    else:
        correct = probabilities.argmax(axis=1) == predictions.truth
        likelihoods = likelihoods[truth == 1]
    labels = predictions.labels
    if predictions.task == "binary":
        labels = (labels[predictions.label_index(positive)],)
    each = [predictions.against_rest(label) for label in labels]
    ranked = np.array([rank_metrics(*one, np.ones((1, len(one[0])))) for one in each])[:, :, 0]
    auc, pr_auc = (float(part[~np.isnan(part)].mean()) if not np.isnan(part).all() else math.nan for part in ranked.T)
    return {
        "loss": float(-np.log(likelihoods.clip(1e-7, 1 - 1e-7)).mean()),
        "accuracy": float(correct.mean()),
        "auc": auc,
        "pr_auc": pr_auc,
    }


def rank_metrics(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve, ties counted half, and average precision, for many weightings at once.

    Args:
      truth: 0 or 1, or bool [images].
      scores: [images]; what is 1 should have the higher.
      weights: float64 [replicates, images], not negative.

    Returns:
      `roc_auc` and `pr_auc`, float64 [replicates]. `roc_auc` is NaN where positives or negatives have no weight,
      `pr_auc` where positives have none.
    """
    if not len(scores):  # no image of which it is known
        return (np.full(len(weights), math.nan),) * 2
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))  # of each distinct score
    total = weights[:, order]
    positive = total * (truth[order] == 1)
    if len(starts) < len(order):
        total, positive = (np.add.reduceat(part, starts, axis=1) for part in (total, positive))
    found, reached = np.cumsum(positive, axis=1), np.cumsum(total, axis=1)  # at each threshold, the highest first
    positives, negatives = found[:, -1], (reached - found)[:, -1]
    half = reached - found - (total - positive) / 2  # negatives above, and half of those at the same score
    with np.errstate(invalid="ignore", divide="ignore"):
        roc_auc = 1 - np.einsum("ri,ri->r", positive, half) / (positives * negatives)
        precision = np.divide(found, reached, out=np.zeros_like(found), where=reached > 0)
        pr_auc = np.einsum("ri,ri->r", positive, precision) / positives
    return roc_auc, pr_auc


def calibration_curve(predictions: Predictions, label: str) -> dict[str, np.ndarray]:
    """Mean `predicted` probability, `observed` frequency and number of `images` of each bin that has images.

    The bins are those of `calibration_error`, which is the mean distance of the two, weighed by `images`.
    """
    truth, scores = predictions.against_rest(label)
    bins = _bins(scores)
    images = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = images > 0
    sums = (np.bincount(bins, part, CALIBRATION_BINS)[filled] for part in (scores, truth))
    predicted, observed = (part / images[filled] for part in sums)
    return {"predicted": predicted, "observed": observed, "images": images[filled]}


class _Measure:
    """All metrics of each label against the rest, for many weightings of the patients at once.

    All but the rank metrics are ratios of sums over images, which are taken over the images of a patient once.
    """

    def __init__(self, predictions: Predictions, decided: np.ndarray, patients: np.ndarray):
        self._patients = patients
        self._columns = []
        for label, known, decisions in zip(predictions.labels, predictions.known.T, decided.T, strict=True):
            (truth, scores), hit = predictions.against_rest(label), decisions[known]
            gap = scores - truth
            in_bin = one_hot(_bins(scores), CALIBRATION_BINS)
            counts = [truth * hit, (1 - truth) * hit, truth * (1 - hit), (1 - truth) * (1 - hit)]
            images = np.column_stack([*counts, gap**2, in_bin * gap[:, None]])
            sums = np.zeros((patients.max() + 1, images.shape[1]))
            np.add.at(sums, patients[known], images)
            self._columns.append((truth, scores, sums, known))

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """float64 [replicates, labels, metrics] of weights float64 [replicates, patients]."""
        image_weights = weights[:, self._patients]
        return np.stack([self._label(*column, weights, image_weights) for column in self._columns], axis=1)

    @staticmethod
    def _label(
        truth: np.ndarray, scores: np.ndarray, sums: np.ndarray, known: np.ndarray, weights: np.ndarray,
        image_weights: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        totals = weights @ sums
        tp, fp, fn, tn, squares = totals[:, :5].T
        images = tp + fp + fn + tn
        with np.errstate(invalid="ignore"):
            found = {
                "accuracy": (tp + tn) / images,
                "precision": tp / (tp + fp),
                "recall": tp / (tp + fn),
                "specificity": tn / (tn + fp),
                "f1": 2 * tp / (2 * tp + fp + fn),
                "brier": squares / images,
                "calibration_error": np.abs(totals[:, 5:]).sum(axis=1) / images,
            }
        found["roc_auc"], found["pr_auc"] = rank_metrics(truth, scores, image_weights[:, known])
        return np.stack([found[name] for name in METRICS], axis=1)


def _bootstrap(measure: _Measure, patients: int, images: int, replicates: int) -> Iterator[np.ndarray]:
    """Metrics float64 [replicates, labels, metrics] in parts; none of fewer than two patients, who cannot vary."""
    random = np.random.default_rng(SEED)
    step = max(1, _CHUNK_WEIGHTS // images)
    for first in range(0, replicates if patients > 1 else 0, step):
        count = min(step, replicates - first)
        drawn = random.integers(0, patients, (count, patients))
        drawn += patients * np.arange(count)[:, None]
        yield measure(np.bincount(drawn.reshape(-1), minlength=count * patients).reshape(count, patients).astype(float))


def _over_labels(values: np.ndarray, defined: np.ndarray, multi_label: bool) -> np.ndarray:
    """Means [replicates, metrics] of [replicates, labels, metrics] over the labels for which a metric is defined.

    A label that is undefined in a replicate only makes the replicate undefined: another set of labels would be
    another metric.
    """
    with np.errstate(invalid="ignore"):
        means = np.where(defined, values, 0).sum(axis=1) / defined.sum(axis=0)
    if not multi_label:  # an image decided wrongly is wrong for two labels, so this is the share of images
        accuracy = METRICS.index("accuracy")
        means[:, accuracy] = 1 - (1 - means[:, accuracy]) * len(defined) / 2
    return means


def _summary(values: np.ndarray, replicates: np.ndarray) -> dict[str, dict[str, float | None]]:
    """By metric: value, low and high, of values [1, metrics] and replicates [replicates, metrics]."""
    summary = {}
    for index, name in enumerate(METRICS):
        value, drawn = values[0, index], replicates[:, index]
        drawn = drawn[~np.isnan(drawn)]
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(drawn) else (math.nan, math.nan)
        entries = {"value": value, "low": low, "high": high}
        summary[name] = {key: None if math.isnan(entry) else float(entry) for key, entry in entries.items()}
    return summary


def _bins(scores: np.ndarray) -> np.ndarray:
    return np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)


def _unknown(predictions: Predictions) -> dict[str, int]:
    """By label, the images that count for nothing, as it is not known whether they have it; labels of none left out."""
    counts = (~predictions.known).sum(axis=0)
    return {label: int(count) for label, count in zip(predictions.labels, counts, strict=True) if count}


def _confusion(predictions: Predictions, predicted: np.ndarray) -> Any:
    """Counts as lists: rows true, columns predicted; by label [[tn, fp], [fn, tp]] where multi-label."""
    from sklearn.metrics import confusion_matrix  # here, as training needs none

    if predictions.multi_label:
        columns = zip(predictions.labels, predictions.known.T, predictions.truth.T, predicted.T, strict=True)
        return {
            label: confusion_matrix(truth[known], decided[known], labels=[0, 1]).tolist()
            if known.any()
            else [[0, 0]] * 2
            for label, known, truth, decided in columns
        }
    return confusion_matrix(predictions.truth, predicted, labels=range(len(predictions.labels))).tolist()

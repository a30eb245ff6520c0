"""Metrics against scikit-learn and against cases worked by hand; intervals against what they promise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from cxr.errors import InputError
from trainer.evaluation.metrics import METRICS, calibration_curve, evaluate_predictions, quick_metrics, rank_metrics
from trainer.evaluation.operating_point import OperatingPoint
from trainer.evaluation.predictions import Predictions

HALF = OperatingPoint("threshold=0.5", {"PNEUMONIA": 0.5}, "val")
ARGMAX = OperatingPoint("argmax", {}, "val")


def make(labels, probabilities, truth, patients=None, multi_label=False) -> Predictions:
    return Predictions(labels, multi_label, probabilities, truth, patients=patients)


def binary(scores, truth, patients=None) -> Predictions:
    scores = np.asarray(scores, np.float32)
    return make(("NORMAL", "PNEUMONIA"), np.stack([1 - scores, scores], axis=1), np.asarray(truth), patients)


def drawn(task: str, seed: int, count: int = 120, ties: bool = False) -> Predictions:
    """Images of a classifier that is right more often than not."""
    random = np.random.default_rng(seed)
    labels = ("a", "b", "c", "d")[: 2 if task == "binary" else 4]
    logits = random.normal(size=(count, len(labels)))
    if task == "multi-label":
        truth = random.integers(0, 2, logits.shape)
        probabilities = 1 / (1 + np.exp(-(logits + 2 * truth - 1)))
    else:
        truth = random.integers(0, len(labels), count)
        logits[np.arange(count), truth] += 1
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if ties:
        probabilities = np.floor(probabilities * 8) / 8
        probabilities[..., 0] += 0 if task == "multi-label" else 1 - probabilities.sum(axis=1)
    return make(labels, probabilities, truth, multi_label=task == "multi-label")


def values(metrics: dict) -> dict[str, float | None]:
    return {name: entry["value"] for name, entry in metrics.items()}


@pytest.mark.parametrize("decimals", [1, 9])
@pytest.mark.parametrize("weighted", [False, True])
def test_rank_metrics_are_those_of_scikit_learn(decimals, weighted):
    random = np.random.default_rng(decimals)
    truth = random.integers(0, 2, 200)
    scores = np.round(random.normal(size=200) + truth, decimals)
    weights = random.integers(0, 4, (7, 200)).astype(float) if weighted else np.ones((7, 200))
    roc_auc, pr_auc = rank_metrics(truth, scores, weights)
    for index, weight in enumerate(weights):
        expected = sklearn_metrics.roc_auc_score(truth, scores, sample_weight=weight)
        assert roc_auc[index] == pytest.approx(expected, abs=1e-12)
        expected = sklearn_metrics.average_precision_score(truth, scores, sample_weight=weight)
        assert pr_auc[index] == pytest.approx(expected, abs=1e-12)


def test_rank_metrics_by_hand():
    once = np.ones((1, 3))
    assert rank_metrics(np.array([0, 1, 1]), np.array([0.1, 0.2, 0.3]), once) == (1, 1)
    roc_auc, pr_auc = rank_metrics(np.array([1, 0, 1]), np.array([0.5, 0.5, 0.9]), once)
    assert roc_auc == pytest.approx(3 / 4)  # one pair in order, one tied
    assert pr_auc == pytest.approx((1 + 2 / 3) / 2)
    weights = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 2]])
    roc_auc, pr_auc = rank_metrics(np.array([1, 0, 1]), np.array([0.5, 0.5, 0.9]), weights)
    assert np.isnan(roc_auc).all()
    np.testing.assert_array_equal(pr_auc, [1, np.nan, np.nan, 1])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("task", ["binary", "multi-class", "multi-label"])
def test_every_metric_of_every_label_is_that_of_scikit_learn(task, ties):
    given = drawn(task, seed=3, ties=ties)
    assert given.task == task
    point = OperatingPoint.choose(given)
    predicted = point.apply(given)
    result = evaluate_predictions(given, point, bootstrap=0)
    decided = predicted if task == "multi-label" else (predicted[:, None] == np.arange(len(given.labels)))
    for column, label in enumerate(given.labels):
        truth, scores, hit = given.truth_matrix[:, column], given.probabilities[:, column], decided[:, column]
        expected = {
            "accuracy": sklearn_metrics.accuracy_score(truth, hit),
            "precision": sklearn_metrics.precision_score(truth, hit),
            "recall": sklearn_metrics.recall_score(truth, hit),
            "specificity": sklearn_metrics.recall_score(1 - truth, 1 - hit),
            "f1": sklearn_metrics.f1_score(truth, hit),
            "roc_auc": sklearn_metrics.roc_auc_score(truth, scores),
            "pr_auc": sklearn_metrics.average_precision_score(truth, scores),
            "brier": sklearn_metrics.brier_score_loss(truth, scores),
            "calibration_error": calibration_error(truth, scores.astype(float)),
        }
        assert list(result["per_label"][label]) == list(METRICS)
        assert values(result["per_label"][label]) == pytest.approx(expected, abs=1e-7)
    overall = values(result["metrics"])
    if task == "binary":
        assert overall == values(result["per_label"]["b"]) and result["positive"] == "b"
        assert result["confusion"] == sklearn_metrics.confusion_matrix(given.truth, predicted).tolist()
    else:
        assert result["positive"] is None
        means = {name: np.mean([values(part)[name] for part in result["per_label"].values()]) for name in METRICS}
        if task == "multi-class":
            means["accuracy"] = sklearn_metrics.accuracy_score(given.truth, predicted)
            assert result["confusion"] == sklearn_metrics.confusion_matrix(given.truth, predicted).tolist()
        else:
            tables = sklearn_metrics.multilabel_confusion_matrix(given.truth, predicted).tolist()
            assert result["confusion"] == dict(zip(given.labels, tables, strict=True))
        assert overall == pytest.approx(means)


def calibration_error(truth: np.ndarray, scores: np.ndarray) -> float:
    """As one would say it: over the bins, the distance between mean score and frequency, weighed by images."""
    error = 0.0
    for place in range(15):
        inside = (scores >= place / 15) & ((scores < (place + 1) / 15) | (place == 14))
        if inside.any():
            error += inside.mean() * abs(scores[inside].mean() - truth[inside].mean())
    return error


def test_by_hand():
    result = evaluate_predictions(binary([0.125, 0.75, 0.25, 1.0, 0.75], [0, 0, 1, 1, 1]), HALF, bootstrap=0)
    assert values(result["metrics"]) == pytest.approx({
        "accuracy": 3 / 5, "precision": 2 / 3, "recall": 2 / 3, "specificity": 1 / 2, "f1": 2 / 3,
        "roc_auc": (1 + 0 + 1 + 1 + 1 + 0.5) / 6, "pr_auc": (1 + 2 / 3 + 3 / 4) / 3,
        "brier": (0.125**2 + 0.75**2 + 0.75**2 + 0 + 0.25**2) / 5,
        "calibration_error": (0.125 + 0.75 + 0 + 0.5) / 5,  # of those at 0.75 one of two is positive
    })  # fmt: skip
    assert result.items() >= {
        "confusion": [[1, 1], [1, 2]], "task": "binary", "positive": "PNEUMONIA", "images": 5, "patients": 5,
        "level": 0.95,
        "operating_point": {"rule": "threshold=0.5", "thresholds": {"PNEUMONIA": 0.5}, "chosen_on": "val"},
    }.items()  # fmt: skip


def test_the_positive_label():
    given = binary([0.1, 0.7, 0.3], [0, 1, 1])
    second, first = (evaluate_predictions(given, HALF, positive=name, bootstrap=0) for name in (None, "NORMAL"))
    assert (second["positive"], first["positive"]) == ("PNEUMONIA", "NORMAL")
    assert second["metrics"]["recall"] == first["metrics"]["specificity"]
    point = OperatingPoint("threshold=0.5", {"NORMAL": 0.5}, "val")
    assert evaluate_predictions(given, point, bootstrap=0)["positive"] == "NORMAL"
    with pytest.raises(InputError, match="no label 'normal'"):
        evaluate_predictions(given, HALF, positive="normal")


@pytest.mark.parametrize(("scores", "truth", "undefined"), [
    ([0.2, 0.8], [1, 1], {"specificity", "roc_auc"}),
    ([0.2, 0.8], [0, 0], {"recall", "roc_auc", "pr_auc"}),
    ([0.2, 0.2], [0, 0], {"precision", "recall", "f1", "roc_auc", "pr_auc"}),
    ([0.8], [1], {"specificity", "roc_auc"}),
    ([0.3, 0.3, 0.3], [0, 1, 1], {"precision"}),
    ([1.0, 0.0], [1, 0], set()),
])  # fmt: skip
def test_what_is_undefined_is_none_and_no_warning(scores, truth, undefined):
    result = evaluate_predictions(binary(scores, truth), HALF, bootstrap=50)
    assert {name for name, entry in result["metrics"].items() if entry["value"] is None} == undefined
    for entry in result["metrics"].values():
        assert (entry["low"] is None) == (entry["value"] is None or len(scores) == 1)
    json.dumps(result, allow_nan=False)


def test_a_label_that_the_split_lacks_is_left_out_of_the_mean():
    scores = [[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]]
    given = make(("a", "b", "c"), scores, np.array([0, 1, 1, 1]))
    result = evaluate_predictions(given, ARGMAX, bootstrap=20)
    assert result["per_label"]["c"]["recall"]["value"] is None
    assert result["metrics"]["recall"]["value"] == pytest.approx((1 + 2 / 3) / 2)
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(3 / 4)
    assert result["confusion"] == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]


def test_a_label_that_a_replicate_lacks_does_not_lower_its_mean():
    given = make(("a", "b", "c"), np.eye(3)[[0] * 9 + [1] * 9 + [2]], np.array([0] * 9 + [1] * 9 + [2]))
    result = evaluate_predictions(given, ARGMAX, bootstrap=100)
    for name in ("recall", "precision", "f1", "roc_auc"):
        assert result["metrics"][name] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_intervals_are_reproducible_and_hold_the_value():
    given = drawn("binary", seed=1)
    point = OperatingPoint.choose(given)
    once, again = (evaluate_predictions(given, point, bootstrap=100) for _ in range(2))
    assert once == again
    for name, entry in once["metrics"].items():
        assert entry["low"] < entry["high"]
        assert entry["low"] < entry["value"] < entry["high"] or name == "calibration_error"


def test_intervals_do_not_depend_on_how_replicates_are_parted(monkeypatch):
    given = drawn("multi-label", seed=1)
    point = OperatingPoint.choose(given)
    whole = evaluate_predictions(given, point, bootstrap=40)
    monkeypatch.setattr("trainer.evaluation.metrics._CHUNK_WEIGHTS", 7 * len(given))
    parted = evaluate_predictions(given, point, bootstrap=40)
    for name, entry in whole["metrics"].items():
        assert parted["metrics"][name] == pytest.approx(entry)


def test_images_of_a_patient_count_together():
    few = drawn("binary", seed=2, count=40)
    many = make(few.labels, few.probabilities.repeat(10, axis=0), few.truth.repeat(10))
    grouped = make(few.labels, many.probabilities, many.truth, np.arange(40).repeat(10))
    point = OperatingPoint.choose(few)
    one, copies, clusters = (evaluate_predictions(given, point)["metrics"] for given in (few, many, grouped))
    for name in METRICS:
        assert clusters[name] == pytest.approx(one[name])  # ten times the same image tells nothing new
        width, naive = (part[name]["high"] - part[name]["low"] for part in (clusters, copies))
        assert width > 2 * naive
    assert evaluate_predictions(grouped, point, bootstrap=0)["patients"] == 40
    entry = evaluate_predictions(binary([0.1, 0.9], [0, 1], ["a", "a"]), HALF)["metrics"]["recall"]
    assert entry == {"value": 1.0, "low": None, "high": None}


def test_intervals_of_the_mean_over_labels():
    given = drawn("multi-class", seed=4)
    result = evaluate_predictions(given, OperatingPoint.choose(given), bootstrap=200)
    widths = {label: part["roc_auc"]["high"] - part["roc_auc"]["low"] for label, part in result["per_label"].items()}
    overall = result["metrics"]["roc_auc"]
    assert overall["low"] < overall["value"] < overall["high"]
    assert overall["high"] - overall["low"] < max(widths.values())  # errors of labels partly cancel


def test_intervals_cover_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    separation = 1.2
    true_auc = 0.5 * (1 + math.erf(separation / 2))  # of two normal distributions of deviation 1
    covered = 0
    for _ in range(60):
        truth = np.tile([0, 1], 60)
        scores = 1 / (1 + np.exp(-(random.normal(size=120) + separation * truth)))
        entry = evaluate_predictions(binary(scores, truth), HALF, bootstrap=200)["metrics"]["roc_auc"]
        covered += entry["low"] <= true_auc <= entry["high"]
    assert 51 <= covered <= 60  # 57 expected; fewer than 51 by chance once in 200


@pytest.mark.parametrize("task", ["binary", "multi-class", "multi-label"])
def test_quick_metrics_are_those_of_scikit_learn(task):
    given = drawn(task, seed=7)
    quick = quick_metrics(given)
    truth, scores = given.truth_matrix, given.probabilities.astype(float)
    if task == "multi-label":
        loss = np.mean([sklearn_metrics.log_loss(*column) for column in zip(truth.T, scores.T, strict=True)])
        accuracy = (given.truth == (scores >= 0.5)).mean()
    else:
        loss = sklearn_metrics.log_loss(given.truth, scores / scores.sum(axis=1, keepdims=True))
        accuracy = (given.truth == scores.argmax(axis=1)).mean()
    if task == "binary":
        truth, scores = truth[:, 1], scores[:, 1]
    expected = {
        "loss": loss,
        "accuracy": accuracy,
        "auc": sklearn_metrics.roc_auc_score(truth, scores, average="macro"),
        "pr_auc": sklearn_metrics.average_precision_score(truth, scores, average="macro"),
    }
    assert quick == pytest.approx(expected, abs=1e-6)
    assert all(type(value) is float for value in quick.values())


def test_quick_metrics_of_the_worst():
    quick = quick_metrics(binary([0.0, 0.0], [1, 1]))
    assert quick["loss"] == pytest.approx(-math.log(1e-7))
    assert quick["accuracy"] == 0 and math.isnan(quick["auc"]) and quick["pr_auc"] == 1
    first = quick_metrics(binary([0.2, 0.9, 0.6], [0, 1, 0]), positive="NORMAL")
    assert first["pr_auc"] == 1


def test_the_calibration_curve_is_that_of_the_error():
    given = drawn("binary", seed=9)
    curve = calibration_curve(given, "b")
    assert curve["images"].sum() == len(given) and len(curve["images"]) <= 15
    error = (np.abs(curve["predicted"] - curve["observed"]) * curve["images"]).sum() / len(given)
    result = evaluate_predictions(given, OperatingPoint.choose(given), bootstrap=0)
    assert error == pytest.approx(result["metrics"]["calibration_error"]["value"])

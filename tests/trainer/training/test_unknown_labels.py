"""Labels that are not known count for nothing: in the loss, the accuracy, the metrics and the reports."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from trainer.evaluation.metrics import evaluate_predictions, quick_metrics
from trainer.evaluation.operating_point import OperatingPoint
from trainer.evaluation.predictions import Predictions
from trainer.training.classifier import CrossEntropy

LABELS = ("Mass", "Edema", "Nodule")
NAN = np.nan


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    random = np.random.default_rng(3)
    truth = random.integers(0, 2, (60, 3)).astype(np.float32)
    scores = np.clip(0.5 * truth + random.uniform(0, 0.6, truth.shape), 0, 1).astype(np.float32)
    truth[random.random(truth.shape) < 0.3] = NAN
    truth[:, 2] = np.where(np.isnan(truth[:, 2]), NAN, truth[:, 2])
    return Predictions(LABELS, True, scores, truth, patients=[f"p{number // 2}" for number in range(60)])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_known_labels(smoothing: float):
    truth = np.array([[1, 0, NAN], [NAN, NAN, NAN], [0, 1, 1], [NAN, 1, NAN]], np.float32)
    scores = np.array([[0.9, 0.2, 0.7], [0.1, 0.5, 0.9], [0.3, 0.6, 0.8], [0.5, 0.4, 0.2]], np.float32)
    wanted = truth * (1 - smoothing) + 0.5 * smoothing
    each = -(wanted * np.log(scores) + (1 - wanted) * np.log(1 - scores))
    expected = [np.nansum(row) / max(1, np.isfinite(row).sum()) for row in each]
    loss = CrossEntropy(3, True, smoothing)
    np.testing.assert_allclose(loss.call(truth, scores), expected, rtol=1e-5)
    known = truth[[2]]
    usual = keras.losses.binary_crossentropy(known, scores[[2]], label_smoothing=smoothing)
    np.testing.assert_allclose(loss.call(known, scores[[2]]), usual, rtol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="gradients are taken by TensorFlow here")
def test_what_is_not_known_has_no_gradient():
    import tensorflow as tf

    scores = tf.Variable([[0.9, 0.2, 0.7]])
    with tf.GradientTape() as tape:
        loss = CrossEntropy(3, True).call(tf.constant([[1.0, NAN, 0.0]]), scores)
    gradient = np.asarray(tape.gradient(loss, scores))
    assert np.isfinite(gradient).all()
    assert gradient[0, 1] == 0 and (gradient[0, [0, 2]] != 0).all()


def test_metrics_of_each_label_are_those_of_the_images_that_are_known(predictions: Predictions):
    point = OperatingPoint("threshold=0.5", dict.fromkeys(LABELS, 0.5))
    found = evaluate_predictions(predictions, point, bootstrap=20)
    assert found["unknown"] == {
        label: int((~known).sum()) for label, known in zip(LABELS, predictions.known.T, strict=True)
    }
    for column, label in enumerate(LABELS):
        known = predictions.known[:, column]
        truth, scores = predictions.truth[known, column], predictions.probabilities[known, column].astype(float)
        values = {name: entry["value"] for name, entry in found["per_label"][label].items()}
        assert values["roc_auc"] == pytest.approx(sklearn_metrics.roc_auc_score(truth, scores))
        assert values["pr_auc"] == pytest.approx(sklearn_metrics.average_precision_score(truth, scores))
        assert values["recall"] == pytest.approx(sklearn_metrics.recall_score(truth, scores >= 0.5))
        assert values["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(truth, scores >= 0.5))
        assert values["brier"] == pytest.approx(sklearn_metrics.brier_score_loss(truth, scores))
        assert found["confusion"][label] == sklearn_metrics.confusion_matrix(truth, scores >= 0.5).tolist()
    one, other = (evaluate_predictions(given, point, bootstrap=20) for given in (predictions, _flipped(predictions)))
    assert one == other  # what the model says where nothing is known


def _flipped(predictions: Predictions) -> Predictions:
    scores = np.where(predictions.known, predictions.probabilities, 1 - predictions.probabilities)
    return Predictions(LABELS, True, scores, predictions.truth, patients=predictions.patients)


def test_quick_metrics(predictions: Predictions):
    found = quick_metrics(predictions)
    known, truth, scores = predictions.known, predictions.truth, predictions.probabilities.astype(float)
    assert found["loss"] == pytest.approx(sklearn_metrics.log_loss(truth[known], scores[known]), rel=1e-6)
    assert found["accuracy"] == pytest.approx(((scores >= 0.5) == truth)[known].mean())
    aucs = [sklearn_metrics.roc_auc_score(truth[known[:, i], i], scores[known[:, i], i]) for i in range(3)]
    assert found["auc"] == pytest.approx(np.mean(aucs))


def test_thresholds_are_chosen_on_what_is_known(predictions: Predictions):
    point = OperatingPoint.choose(predictions, "youden")
    assert point.thresholds == OperatingPoint.choose(_flipped(predictions), "youden").thresholds


def test_the_table_of_predictions(predictions: Predictions, tmp_path):
    decided = OperatingPoint("threshold=0.5", dict.fromkeys(LABELS, 0.5)).apply(predictions)
    predictions.save_csv(tmp_path / "p.csv", decided)
    row = (tmp_path / "p.csv").read_text().splitlines()[1].split(",")
    assert row[4] == "|".join(label for label, has in zip(LABELS, predictions.truth[0], strict=True) if has == 1)
    right = [(decided[i] == predictions.truth[i])[predictions.known[i]].all() for i in range(60)]
    assert predictions.is_right(decided).tolist() == right


def test_a_label_of_which_nothing_is_known(predictions: Predictions):
    truth = np.where(np.arange(3) == 1, NAN, predictions.truth.astype(float))
    nothing = Predictions(LABELS, True, predictions.probabilities, truth)
    assert np.isfinite(quick_metrics(nothing)["auc"])
    point = OperatingPoint.choose(nothing, "auto")
    found = evaluate_predictions(nothing, point, bootstrap=5)
    assert found["per_label"]["Edema"]["roc_auc"]["value"] is None and found["confusion"]["Edema"] == [[0, 0], [0, 0]]
    assert found["metrics"]["roc_auc"]["value"] is not None

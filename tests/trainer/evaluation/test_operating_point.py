"""Thresholds by each rule: on scores worked by hand, and against a search over every threshold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cxr.errors import DatasetError, InputError
from trainer.evaluation.operating_point import OperatingPoint, parse_rule, read_operating_point, write_operating_point
from trainer.evaluation.predictions import Predictions


def binary(scores, truth) -> Predictions:
    scores = np.asarray(scores, np.float32)
    return Predictions(("NORMAL", "PNEUMONIA"), False, np.stack([1 - scores, scores], axis=1), truth)


def threshold(scores, truth, rule="youden") -> float:
    return OperatingPoint.choose(binary(scores, truth), rule).thresholds["PNEUMONIA"]


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def rates(scores, truth, at: float) -> tuple[float, float]:
    """Recall and specificity."""
    decided = np.asarray(scores, np.float32).astype(float) >= at
    truth = np.asarray(truth) == 1
    return decided[truth].mean(), (~decided[~truth]).mean()


def test_separated_classes_are_parted_in_the_middle_of_their_gap_in_logits():
    found = threshold([0.01, 0.02, 0.9, 0.99], [0, 0, 1, 1])
    assert logit(found) == pytest.approx((logit(0.02) + logit(0.9)) / 2, abs=1e-6)


def test_of_equal_thresholds_that_in_the_widest_gap_is_taken():
    truth = [0, 1, 0, 1]  # J is 1/2 below the second score and below the last
    found = threshold([0.1, 0.5, 0.52, 0.9], truth)
    assert logit(found) == pytest.approx((logit(0.1) + logit(0.5)) / 2, abs=1e-5)
    found = threshold([0.3, 0.5, 0.52, 0.9], truth)
    assert logit(found) == pytest.approx((logit(0.52) + logit(0.9)) / 2, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_no_other_threshold_is_better_by_the_rule(seed):
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, 60)
    scores = (1 / (1 + np.exp(-(2 * truth - 1 + 1.5 * random.normal(size=60))))).astype(np.float32)
    if seed % 2:
        scores = np.round(scores, 1)  # many ties
    levels = np.unique(scores.astype(float))
    every = np.concatenate([[0], (levels[1:] + levels[:-1]) / 2, [1]])
    recalls, specificities = np.array([rates(scores, truth, at) for at in every]).T

    recall, specificity = rates(scores, truth, threshold(scores, truth))
    assert recall + specificity == pytest.approx((recalls + specificities).max())
    recall, specificity = rates(scores, truth, threshold(scores, truth, "recall=0.9"))
    assert recall >= 0.9 and specificity == specificities[recalls >= 0.9].max()
    recall, specificity = rates(scores, truth, threshold(scores, truth, "specificity=0.8"))
    assert specificity >= 0.8 and recall == recalls[specificities >= 0.8].max()


def test_recall_and_specificity_are_reached_exactly_where_they_can_be():
    scores, truth = np.arange(1, 21) / 21, [0] * 10 + [1] * 10
    assert rates(scores, truth, threshold(scores, truth, "recall=0.9")) == (0.9, 1.0)
    assert rates(scores, truth, threshold(scores, truth, "recall=0.95")) == (1.0, 1.0)
    assert rates(scores, truth, threshold(scores, truth, "specificity=0.7"))[1] == 0.7
    found = threshold(scores, truth, "recall=0.9")  # between the first and the second positive
    assert logit(found) == pytest.approx((logit(11 / 21) + logit(12 / 21)) / 2, abs=1e-5)


def test_rounding_of_a_product_asks_for_no_further_image():
    scores, truth = np.arange(1, 201) / 201, [0] * 100 + [1] * 100
    assert 0.55 * 100 > 55
    assert rates(scores, truth, threshold(scores, truth, "specificity=0.55"))[1] == 0.55
    assert rates(scores, truth, threshold(scores, truth, "recall=0.55"))[0] == 0.55


def test_beyond_the_last_score_is_half_way_to_the_end():
    assert threshold([0.2, 0.4, 0.6], [1, 0, 1], "recall=1") == pytest.approx(0.1)
    assert threshold([0.2, 0.4, 0.6], [1, 0, 0], "specificity=1") == pytest.approx(0.8)


def test_saturated_scores():
    assert 0 < threshold([0, 0, 1, 1], [0, 0, 1, 1]) <= 1
    high = np.float32(1) - np.float32(2**-24)
    assert float(high) < threshold([0.5, high, 1.0], [0, 0, 1]) <= 1
    assert rates([1e-20, 2e-20], [0, 1], threshold([1e-20, 2e-20], [0, 1])) == (1, 1)
    assert 0 < threshold([0, 1e-42], [0, 1]) <= 1e-42
    assert threshold([0.0, 0.5], [1, 0], "recall=1") == 0
    with pytest.raises(InputError, match="cannot be reached: 1 of 2 images without the label have the probability 1"):
        threshold([0.2, 1, 1], [0, 0, 1], "specificity=0.9")
    assert threshold([0.2, 1, 1], [0, 0, 1], "specificity=0.5") < 1


def test_scores_that_tell_nothing_still_give_a_threshold():
    assert 0 < threshold([0.5, 0.5, 0.5], [0, 1, 1]) < 1
    inverted = threshold([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1])
    assert sum(rates([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], inverted)) == 1


@pytest.mark.parametrize(("truth", "rule", "message"), [
    ([1, 1], "youden", "'PNEUMONIA' on the validation split: it has no image without the label, so youden"),
    ([0, 0], "youden", "no image with the label"),
    ([0, 0], "recall=0.9", "no image with the label, so recall"),
    ([1, 1], "specificity=0.9", "no image without the label, so specificity"),
])  # fmt: skip
def test_one_class_alone(truth, rule, message):
    with pytest.raises(InputError, match=message):
        threshold([0.2, 0.8], truth, rule)


def test_one_class_alone_suffices_for_what_does_not_count_the_other():
    assert threshold([0.2, 0.8], [1, 1], "recall=1") == pytest.approx(0.1)
    assert threshold([0.2, 0.8], [1, 1], "threshold=0.3") == 0.3


@pytest.mark.parametrize(
    "rule", ["", "Youden", "youden=1", "recall", "recall=", "recall=0", "recall=1.1", "recall=95%", "recall=nan",
             "threshold=-0.1", "f1=0.9", "argmax=2"]
)  # fmt: skip
def test_rules_there_are_not(rule):
    with pytest.raises(InputError, match="expected youden, recall=R, specificity=S, threshold=T, argmax or auto"):
        parse_rule(rule)


def test_rules_of_a_task():
    assert parse_rule("auto", "multi-class")[0] == "argmax"
    assert parse_rule("auto", "binary")[0] == parse_rule("auto", "multi-label")[0] == "youden"
    assert parse_rule("recall=0.95", "binary") == ("recall", 0.95)
    with pytest.raises(InputError, match="use argmax or auto"):
        parse_rule("youden", "multi-class")
    with pytest.raises(InputError, match="with several an image use youden"):
        parse_rule("argmax", "multi-label")


def test_decisions_of_two_labels():
    given = binary([0.1, 0.5, 0.75], [0, 0, 1])
    assert OperatingPoint("threshold=0.5", {"PNEUMONIA": 0.5}, "val").apply(given).tolist() == [0, 1, 1]
    assert OperatingPoint("argmax", {}, "val").apply(given).tolist() == [0, 0, 1]  # a tie is the first label's
    first = OperatingPoint.choose(given, "threshold=0.75", positive="NORMAL")
    assert first.thresholds == {"NORMAL": 0.75}
    assert first.apply(given).tolist() == [0, 1, 1]
    assert first.apply(given).dtype == np.int32


def test_decisions_of_many_labels():
    given = Predictions(("a", "b", "c"), False, [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], [0, 1])
    assert OperatingPoint.choose(given) == OperatingPoint("argmax", {})
    assert OperatingPoint.choose(given).apply(given).tolist() == [0, 2]


def test_decisions_of_several_labels_an_image():
    given = Predictions(("a", "b"), True, [[0.1, 0.9], [0.2, 0.7], [0.6, 0.3]], [[0, 1], [0, 1], [1, 0]])
    point = OperatingPoint.choose(given)
    assert point.rule == "youden" and point.chosen_on == "val"
    assert 0.2 < point.thresholds["a"] < 0.6 and 0.3 < point.thresholds["b"] < 0.7
    assert point.apply(given).tolist() == [[0, 1], [0, 1], [1, 0]]
    assert point.apply(given).dtype == np.uint8


@pytest.mark.parametrize(("labels", "multi_label", "thresholds", "message"), [
    ("ab", True, {"a": 0.5}, "thresholds for a; the predictions are multi-label, of a, b"),
    ("ab", True, {}, "thresholds for no label"),
    ("ab", False, {"mass": 0.5}, "thresholds for mass; the predictions are binary, of a, b"),
    ("abc", False, {"a": 0.5}, "thresholds for a; the predictions are multi-class, of a, b, c"),
])  # fmt: skip
def test_thresholds_of_other_labels(labels, multi_label, thresholds, message):
    probabilities = np.full((1, len(labels)), 1 / len(labels))
    given = Predictions(tuple(labels), multi_label, probabilities, probabilities if multi_label else [0])
    with pytest.raises(InputError, match=message):
        OperatingPoint("youden" if thresholds else "argmax", thresholds).apply(given)


@pytest.mark.parametrize(
    ("rule", "thresholds"), [("auto", {"a": 0.5}), ("argmax", {"a": 0.5}), ("youden", {}), ("youden", {"a": 1.5}),
                             ("youden", {"a": math.nan})]
)  # fmt: skip
def test_points_that_cannot_be(rule, thresholds):
    with pytest.raises(InputError):
        OperatingPoint(rule, thresholds)


def test_a_point_is_kept_for_its_weights(tmp_path):
    point = OperatingPoint.choose(binary([0.1, 1 / 3, 0.7], [0, 1, 1]))
    file = tmp_path / "point.json"
    write_operating_point(file, point, "digest of the weights")
    assert read_operating_point(file, "digest of the weights") == point
    assert read_operating_point(file, "of others") is None
    assert read_operating_point(tmp_path / "none.json", "") is None


@pytest.mark.parametrize(
    "damaged", ['{"rule": "you', "[]", "{}", '{"rule": "youden", "thresholds": [0.5], "chosen_on": "val"}',
                '{"rule": "youden", "thresholds": {"a": "x"}}',
                '{"rule": "youden", "thresholds": {"a": 0.5}, "more": 1}']
)  # fmt: skip
def test_damaged_points(tmp_path, damaged):
    (tmp_path / "point.json").write_text(damaged)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_operating_point(tmp_path / "point.json", "")


def test_a_label_that_no_image_has_does_not_stop_auto():
    given = Predictions(("common", "rare"), True, [[0.9, 0.2], [0.1, 0.3], [0.8, 0.4]], [[1, 0], [0, 0], [1, 0]])
    point = OperatingPoint.choose(given)
    assert point.thresholds["rare"] == 0.5
    assert 0.1 < point.thresholds["common"] < 0.8
    with pytest.raises(InputError, match="rare"):
        OperatingPoint.choose(given, "youden")

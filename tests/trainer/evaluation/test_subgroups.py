"""Metrics by subgroup, against scikit-learn on the images of each."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from trainer.evaluation.operating_point import OperatingPoint
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.subgroups import band_of, evaluate_subgroups

POINT = OperatingPoint("threshold=0.5", {"PNEUMONIA": 0.5})


def predictions(count: int = 120) -> Predictions:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, count)
    scores = np.clip(0.4 * truth + random.uniform(0, 0.6, count), 0, 1)
    return Predictions(
        ("NORMAL", "PNEUMONIA"), False, np.column_stack([1 - scores, scores]), truth,
        patients=[f"p{number // 2}" for number in range(count)],
        subgroups={
            "sex": [b"F", b"M", b"", b"F"] * (count // 4), "view": ["PA"] * count,
            "age": [str(number % 100) for number in range(count)], "site": ["A"] * (count - 3) + ["B"] * 3,
        },
    )  # fmt: skip


def test_each_subgroup_is_measured_at_the_same_threshold():
    given = predictions()
    found = evaluate_subgroups(given, POINT, "PNEUMONIA", bootstrap=20)
    assert list(found) == ["sex", "age", "site"]  # all views are the same
    assert list(found["sex"]) == ["F", "M"]
    chosen = given.subgroups["sex"] == "F"
    truth, scores = given.truth[chosen], given.probabilities[chosen, 1].astype(float)
    women = found["sex"]["F"]
    assert (women["images"], women["patients"]) == (60, len(set(given.patients[chosen])))
    assert women["metrics"]["recall"]["value"] == pytest.approx(sklearn_metrics.recall_score(truth, scores >= 0.5))
    assert women["metrics"]["roc_auc"]["value"] == pytest.approx(sklearn_metrics.roc_auc_score(truth, scores))
    assert (
        women["metrics"]["recall"]["low"] <= women["metrics"]["recall"]["value"] <= women["metrics"]["recall"]["high"]
    )
    assert found["site"]["B"] == {"images": 3, "patients": 2, "metrics": None}


def test_ages_come_in_bands():
    found = evaluate_subgroups(predictions(), POINT, "PNEUMONIA", bootstrap=0)["age"]
    assert {name: part["images"] for name, part in found.items()} == {
        "0-17": 36, "80+": 20, "18-39": 24, "40-59": 20, "60-79": 20
    }  # fmt: skip
    assert [band_of(age) for age in ("0.5", "17.9", "18", "79", "80", "", "old")] == [
        "0-17", "0-17", "18-39", "60-79", "80+", "", ""
    ]  # fmt: skip


def test_nothing_is_known():
    given = predictions(20)
    assert evaluate_subgroups(Predictions(given.labels, False, given.probabilities, given.truth), POINT) == {}
    assert given.subset(np.arange(20) < 4).subgroups["sex"].tolist() == ["F", "M", "", "F"]

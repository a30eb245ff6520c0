"""What predictions refuse, and that a table of them has every digit."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from cxr.errors import InputError, OutputError
from trainer.evaluation.predictions import Predictions


def single(**changes) -> Predictions:
    fields = {
        "labels": ("NORMAL", "PNEUMONIA"), "multi_label": False,
        "probabilities": np.array([[0.9, 0.1], [0.25, 0.75], [0.6, 0.4]], np.float32), "truth": np.array([0, 1, 1]),
        "rows": np.array([4, 0, 7]), "patients": np.array(["a", "b", "b"]),
        "paths": np.array(["x.png", "y.png", "z.png"]),
    }  # fmt: skip
    return Predictions(**{**fields, **changes})


def several() -> Predictions:
    return Predictions(
        labels=("mass", "effusion", "hernia"), multi_label=True,
        probabilities=np.array([[0.9, 0.1, 0.3], [0.2, 0.75, 1.0]], np.float32),
        truth=np.array([[1, 1, 0], [0, 0, 0]], np.float32), rows=[0, 1], patients=["a", "b"], paths=["x.png", "y.png"],
        causes=[b"virus", b"gr\xc3\xbcn"],
    )  # fmt: skip


def test_types_and_what_follows_from_them():
    one, many = single(), several()
    assert (one.task, many.task) == ("binary", "multi-label")
    assert one.probabilities.dtype == np.float32
    assert one.truth.dtype == np.int32 and many.truth.dtype == np.uint8
    assert one.rows.dtype == np.int64
    assert one.causes.tolist() == ["", "", ""]
    assert many.causes.tolist() == ["virus", "grün"]
    assert one.truth_matrix.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert many.truth_matrix.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert len(one) == 3
    three = single(labels=("a", "b", "c"), probabilities=np.full((3, 3), 1 / 3))
    assert three.task == "multi-class"
    assert one.label_index(None) == 1 and one.label_index("NORMAL") == 0
    with pytest.raises(InputError, match="no label 'Normal'; expected one of NORMAL, PNEUMONIA"):
        one.label_index("Normal")


def test_unknown_patients_are_one_each():
    groups = single(patients=["", "b", ""]).groups()
    assert len(set(groups.tolist())) == 3 and sorted(set(groups.tolist())) == [0, 1, 2]
    groups = single(patients=["b", "a", "b"]).groups()
    assert groups[0] == groups[2] != groups[1]


@pytest.mark.parametrize(("changes", "message"), [
    ({"probabilities": np.full((3, 3), 1 / 3)}, r"the shape \[3, 3\]; expected \[3, 2\]"),
    ({"probabilities": [[0.9, 0.1], [np.nan, 0.5], [0.5, 0.5]]}, "1 of 3 images are not finite, the first at index 1"),
    ({"truth": [0, 1]}, r"truth have the shape \[2\]; expected \[3\]"),
    ({"rows": [0, 1]}, r"rows have the shape \[2\]"),
    ({"patients": ["a"]}, r"patients have the shape \[1\]"),
])  # fmt: skip
def test_refuses(changes, message):
    with pytest.raises(InputError, match=message):
        single(**changes)


def test_rounding_beyond_the_ends_is_cut_off():
    nearly = single(probabilities=np.array([[1 + 1e-7, -1e-7], [0.5, 0.5], [0.5, 0.5]]))
    assert nearly.probabilities[0].tolist() == [1.0, 0.0]


def test_a_table_has_every_digit_and_any_text(tmp_path):
    random = np.random.default_rng(0)
    positive = random.random(200).astype(np.float32) ** 9
    positive[:3] = [0, 1, 1e-42]
    texts = [f'a, "quoted"\nimage {number} \u00fc|' for number in range(200)]
    truth = random.integers(0, 2, 200)
    given = Predictions(("no|rmal", "with, comma"), False, np.stack([1 - positive, positive], 1), truth, paths=texts)
    given.save_csv(tmp_path / "predictions.csv", truth)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]
    with open(tmp_path / "predictions.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["path"] for row in table] == texts
    assert [given.labels.index(row["label"]) for row in table] == truth.tolist()
    np.testing.assert_array_equal(np.array([row["p:with, comma"] for row in table], np.float32), positive)


def test_what_a_table_says(tmp_path):
    single().save_csv(tmp_path / "single.csv", np.array([0, 1, 0]))
    with open(tmp_path / "single.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert table[2] == {
        "row": "7", "path": "z.png", "patient": "b", "cause": "", "label": "PNEUMONIA", "predicted": "NORMAL",
        "correct": "0", "p:NORMAL": "0.6", "p:PNEUMONIA": "0.4",
    }  # fmt: skip
    assert [record["correct"] for record in table] == ["1", "1", "0"]
    several().save_csv(tmp_path / "several.csv", np.array([[1, 1, 0], [0, 1, 1]]))
    with open(tmp_path / "several.csv", newline="") as file:
        table = list(csv.DictReader(file))
    found = [(record["labels"], record["predicted"], record["correct"]) for record in table]
    assert found == [("mass|effusion", "mass|effusion", "1"), ("", "effusion|hernia", "0")]


def test_saving_where_one_cannot(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        single().save_csv(tmp_path / "missing" / "predictions.csv", np.array([0, 1, 0]))

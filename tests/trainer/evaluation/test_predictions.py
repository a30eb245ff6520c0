"""What predictions refuse, and that a table of them comes back to the last bit."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from cxr.errors import InputError, OutputError
from trainer.evaluation.predictions import Predictions


def single(**changes) -> Predictions:
    fields = {
        "labels": ("NORMAL", "PNEUMONIA"),
        "multi_label": False,
        "probabilities": np.array([[0.9, 0.1], [0.25, 0.75], [0.6, 0.4]], np.float32),
        "truth": np.array([0, 1, 1]),
        "rows": np.array([4, 0, 7]),
        "patients": np.array(["a", "b", "b"]),
        "paths": np.array(["x.png", "y.png", "z.png"]),
    }
    return Predictions(**{**fields, **changes})


def several(**changes) -> Predictions:
    fields = {
        "labels": ("mass", "effusion", "hernia"),
        "multi_label": True,
        "probabilities": np.array([[0.9, 0.1, 0.3], [0.2, 0.75, 1.0]], np.float32),
        "truth": np.array([[1, 1, 0], [0, 0, 0]], np.float32),
        "rows": [0, 1],
        "patients": ["a", "b"],
        "paths": ["x.png", "y.png"],
        "causes": [b"virus", b"gr\xc3\xbcn"],
    }
    return Predictions(**{**fields, **changes})


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probabilities": np.zeros((0, 2))}, "at least one image"),
        ({"probabilities": np.full((3, 3), 1 / 3)}, r"the shape \[3, 3\]; expected \[images, 2\]"),
        (
            {"probabilities": [[0.9, 0.1], [np.nan, 0.5], [0.5, 0.5]]},
            "1 of 3 images are not finite, the first at index 1",
        ),
        ({"probabilities": [[1.2, -0.2], [0.5, 0.5], [0.5, 0.5]]}, r"expected \[0, 1\]"),
        ({"probabilities": [[0.9, 0.9], [0.5, 0.5], [0.5, 0.5]]}, "expected 1, because an image has exactly one label"),
        ({"truth": [0, 1]}, r"truth has the shape \[2\]; expected \[3\]"),
        ({"truth": [0, 1, 2]}, "whole numbers from 0 to 1; received int64 from 0 to 2"),
        ({"truth": [0, 1, -1]}, "from -1 to 1"),
        ({"truth": [0.0, 1.0, 1.0]}, "received float64"),
        ({"rows": [0, 1]}, r"rows have the shape \[2\]"),
        ({"patients": ["a"]}, r"patients have the shape \[1\]"),
        ({"labels": ("A", "A")}, "each once"),
        ({"labels": ("A",)}, "at least 2"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(InputError, match=message):
        single(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truth": [[1, 2, 0], [0, 0, 0]]}, "must be 0 or 1"),
        ({"truth": [0, 1]}, r"expected \[2, 3\]"),
        ({"labels": ("a|b", "c", "d")}, r"'a\|b' is empty or has a"),
    ],
)
def test_refuses_of_several_labels(changes, message):
    with pytest.raises(InputError, match=message):
        several(**changes)


def test_rounding_beyond_the_ends_is_cut_off():
    nearly = single(probabilities=np.array([[1 + 1e-7, -1e-7], [0.5, 0.5], [0.5, 0.5]]))
    assert nearly.probabilities[0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_table_comes_back_to_the_last_bit(tmp_path, multi_label):
    random = np.random.default_rng(0)
    count = 200
    if multi_label:
        probabilities = random.random((count, 3)).astype(np.float32) ** 9
        truth = random.integers(0, 2, (count, 3))
    else:
        positive = random.random(count).astype(np.float32) ** 9
        positive[:3] = [0, 1, 1e-42]
        probabilities = np.stack([1 - positive, positive], axis=1)
        truth = random.integers(0, 2, count)
    texts = [f'a, "quoted"\nimage {number} \u00fc|' for number in range(count)]
    labels = ("mass", "with, comma", "p:odd") if multi_label else ("no|rmal", "odd")
    given = Predictions(labels, multi_label, probabilities, truth, np.arange(count)[::-1], texts, texts, texts)
    predicted = random.integers(0, 2, given.truth.shape)
    given.save_csv(tmp_path / "predictions.csv", predicted)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]
    read = Predictions.load_csv(tmp_path / "predictions.csv")
    assert read.labels == labels and read.multi_label is multi_label
    for name in ("probabilities", "truth", "rows", "patients", "paths", "causes"):
        assert getattr(read, name).dtype == getattr(given, name).dtype
        np.testing.assert_array_equal(getattr(read, name), getattr(given, name))


def test_what_a_table_says(tmp_path):
    single().save_csv(tmp_path / "single.csv", np.array([0, 1, 0]))
    with open(tmp_path / "single.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert table[2] == {
        "row": "7",
        "path": "z.png",
        "patient": "b",
        "cause": "",
        "label": "PNEUMONIA",
        "predicted": "NORMAL",
        "correct": "0",
        "p:NORMAL": "0.6",
        "p:PNEUMONIA": "0.4",
    }
    assert [record["correct"] for record in table] == ["1", "1", "0"]
    several().save_csv(tmp_path / "several.csv", np.array([[1, 1, 0], [0, 1, 1]]))
    with open(tmp_path / "several.csv", newline="") as file:
        table = list(csv.DictReader(file))
    found = [(record["labels"], record["predicted"], record["correct"]) for record in table]
    assert found == [("mass|effusion", "mass|effusion", "1"), ("", "effusion|hernia", "0")]


def test_saving_where_one_cannot(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        single().save_csv(tmp_path / "missing" / "predictions.csv", np.array([0, 1, 0]))
    with pytest.raises(InputError, match=r"predicted has the shape \[2\]; expected \[3\]"):
        single().save_csv(tmp_path / "predictions.csv", np.array([0, 1]))
    assert not list(tmp_path.iterdir())


HEADER = "row,path,patient,cause,label,predicted,correct,p:A,p:B\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column row, path, patient, cause, label"),
        (b"row,path,patient,cause,label\n0,x,a,,A\n", "no column p:LABEL"),
        (HEADER.encode(), "holds no predictions"),
        (f"{HEADER}0,x,a,,C,A,1,0.5,0.5\n".encode(), "line 2: the label 'C' has no column p:C"),
        (f"{HEADER}0,x,a,,A,A,1,0.5,half\n".encode(), "line 2: could not convert"),
        (f"{HEADER}0,x,a,,A,A,1,0.5,0.5\n1,x,a,,A,A,1,0.5\n".encode(), "line 3"),
        (f"{HEADER}0,x,a,,A,A,1,0.5,0.5,0.5\n".encode(), "line 2: the wrong number of columns"),
        (f"{HEADER}0,x,a,,A,A,1,nan,0.5\n".encode(), "not finite"),
        (f'{HEADER}0,"x,a,,A,A,1,0.5,0.5\n'.encode(), "cannot read"),
        (f"{HEADER}0,\xff,a,,A,A,1,0.5,0.5\n".encode("latin-1"), "cannot read"),
    ],
)
def test_loading_what_is_no_table(tmp_path, content, message):
    path = tmp_path / "predictions.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        Predictions.load_csv(path)


def test_loading_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        Predictions.load_csv(tmp_path / "predictions.csv")

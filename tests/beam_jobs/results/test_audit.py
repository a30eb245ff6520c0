"""Audits of data sets with planted faults."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from beam_jobs.results.audit import ENCODING_FEATURES, WARN_AUC, AuditImage, audit, encoding_features
from beam_jobs.results.cross_validation import MIN_PATIENTS
from tfrecords.images.decode import ImageHeader

LABELS = ("NORMAL", "PNEUMONIA")
HEADER = ImageHeader("JPEG", "L", 1000, 800, 8, quantisation=(8,) * 64)


def image(path: str, split: str = "train", label: int | tuple[int, ...] = 0, **more: Any) -> AuditImage:
    of_header = {field.name for field in dataclasses.fields(HEADER)} - {"patient"}
    header = {name: more.pop(name) for name in list(more) if name in of_header}
    labels = (label,) if isinstance(label, int) else label
    fields = {"patient": path, "pixel_hash": path, "bytes": 100_000} | more
    return AuditImage(path=path, split=split, labels=labels, header=dataclasses.replace(HEADER, **header), **fields)


def warnings_of(report: dict[str, Any], word: str) -> list[str]:
    return [line for line in report["warnings"] if line.startswith(word)]


def test_nothing_is_wrong_with_a_plain_set():
    report = audit([image("1"), image("2", label=1)], LABELS, ["a note"])
    assert report["duplicates"] == {
        "groups": [], "extra_copies": 0, "across_splits": 0, "across_labels": 0, "across_patients": 0
    }  # fmt: skip
    assert report["patients_across_splits"] == []
    assert report["notes"] == ["a note"]
    assert report["warnings"] == []
    json.dumps(report, allow_nan=False)


def test_duplicates_within_and_across():
    images = [
        *(image(f"a{n}", pixel_hash="A", patient="p1") for n in (1, 2, 3)),
        image("b1", pixel_hash="B", patient="p2"),
        image("b2", "test", pixel_hash="B", patient="p3"),
        image("c1", pixel_hash="C", patient="p4", label=0),
        image("c2", pixel_hash="C", patient="p4", label=1),
        image("d1", label=1),
        image("d2", "test", label=1),
    ]
    report = audit(list(reversed(images)), LABELS)
    found = report["duplicates"]
    assert [group["paths"] for group in found["groups"]] == [["a1", "a2", "a3"], ["b1", "b2"], ["c1", "c2"]]
    assert [group["splits"] for group in found["groups"]] == [["train"], ["test", "train"], ["train"]]
    assert found["groups"][2]["labels"] == ["NORMAL", "PNEUMONIA"]
    assert found["groups"][1]["patients"] == ["p2", "p3"]
    assert (found["extra_copies"], found["across_splits"]) == (4, 1)
    assert (found["across_labels"], found["across_patients"]) == (1, 1)
    assert warnings_of(report, "DUPLICATES") == [
        "DUPLICATES: 4 images repeat the pixels of another (3 groups; 1 across splits, 1 across labels); "
        "--duplicates drop leaves one of each"
    ]


def test_patients_across_splits():
    images = [
        image("1", patient="p"),
        image("2", patient="p"),
        image("3", "test", label=1, patient="p"),
        image("4", "val", patient="q"),
        image("5", patient="r", label=1),
        image("6", "test", patient="s"),
        image("7", "val", patient="t", label=1),
    ]
    report = audit(images, LABELS)
    assert report["patients_across_splits"] == [{"patient": "p", "images": {"test": 1, "train": 2}}]
    assert warnings_of(report, "LEAKAGE")[0].startswith("LEAKAGE: 1 patients have images in more than one split")


def test_balance():
    images = [image("1"), image("2", label=1), image("3", label=1), image("4", label=1), image("5", "val", label=1)]
    report = audit(images, LABELS)
    assert list(report["balance"]) == ["train", "val"]
    assert report["balance"]["train"] == {
        "images": 4,
        "labels": {"NORMAL": 1, "PNEUMONIA": 3},
        "shares": {"NORMAL": 0.25, "PNEUMONIA": 0.75},
    }
    assert warnings_of(report, "BALANCE") == ["BALANCE: split 'val' has no image of NORMAL"]


def test_balance_of_several_labels():
    report = audit([image("1", label=(0, 1)), image("2", label=()), image("3", label=(1,))], LABELS)
    assert report["balance"]["train"]["shares"] == {"NORMAL": 0.3333, "PNEUMONIA": 0.6667}
    assert set(report["label_from_encoding"]) == {"NORMAL", "PNEUMONIA"}


def test_encoding_features():
    images = [
        image("1", bytes=200_000),
        image("2", format="PNG", quantisation=(), mode="RGB", width=500),
        image("3", icc_profile=True, progressive=True, mode="I;16B"),
        image("4", format="DICOM", mode="MONOCHROME1"),
    ]
    table = dict(zip(ENCODING_FEATURES, encoding_features(images).T, strict=True))
    assert table["bytes per pixel"].tolist() == [-2, -2, -3, -3]
    np.testing.assert_array_equal(table["luma quantisation"], [8, math.nan, 8, 8])
    assert table["ICC profile"].tolist() == [0, 0, 1, 0]
    assert table["progressive"].tolist() == [0, 0, 1, 0]
    assert table["three channels stored"].tolist() == [0, 1, 0, 0]
    assert table["format"].tolist() == [1, 2, 1, 0]
    assert table["aspect ratio"].tolist() == [1.25, 0.625, 1.25, 1.25]
    assert encoding_features([]).shape == (0, len(ENCODING_FEATURES))


def spread(count: int, label_of, **features) -> Iterable[AuditImage]:
    """Images of one patient each, with random sizes; `features` are functions of (label, random generator)."""
    rng = np.random.default_rng(11)
    for number in range(count):
        label = label_of(number, rng)
        made = {name: feature(label, rng) for name, feature in features.items()}
        size = {"width": int(rng.integers(900, 1100)), "height": int(rng.integers(700, 900))}
        yield image(f"{number}", label=label, **{**size, **made})


def test_a_label_that_the_file_size_gives_away():
    size = {"bytes": lambda label, rng: int(rng.normal(100_000 + 80_000 * label, 9e3))}
    report = audit(list(spread(200, lambda n, rng: int(rng.random() < 0.6), **size)), LABELS)
    assert set(report["label_from_encoding"]) == {"PNEUMONIA"}
    found = report["label_from_encoding"]["PNEUMONIA"]
    assert found["auc"] > 0.97
    assert found["images"] == 200
    assert max(found["single"], key=found["single"].get) == "bytes per pixel"
    (line,) = warnings_of(report, "SHORTCUT")
    assert f"'PNEUMONIA' can be predicted from the encoding alone, AUC {found['auc']:.3f} (bytes per" in line


@pytest.mark.parametrize(
    "feature",
    [
        {"quantisation": lambda label, rng: (2 + 3 * label,) * 64},
        {"icc_profile": lambda label, rng: bool(label)},
        {"progressive": lambda label, rng: bool(label)},
        {"mode": lambda label, rng: ("L", "RGB")[label]},
        {"format": lambda label, rng: ("JPEG", "PNG")[label]},
    ],
)
def test_every_trace_of_the_encoding_counts(feature: dict[str, Any]):
    report = audit(list(spread(40, lambda n, rng: n % 2, **feature)), LABELS)
    assert report["label_from_encoding"]["PNEUMONIA"]["auc"] > 0.95
    assert warnings_of(report, "SHORTCUT")


def test_a_label_that_nothing_gives_away():
    images = spread(400, lambda n, rng: n % 2, bytes=lambda label, rng: int(rng.normal(100_000, 30_000)))
    report = audit(list(images), LABELS)
    assert report["label_from_encoding"]["PNEUMONIA"]["auc"] == pytest.approx(0.5, abs=0.1)
    assert not warnings_of(report, "SHORTCUT")


def test_what_is_constant_in_a_patient_is_not_what_tells_the_label():
    """Width names the patient, and the label is the patient's: only folds that part a patient could use it."""
    rng = np.random.default_rng(3)
    patients = zip(range(60), rng.permutation(60) % 2, rng.permutation(60) * 10 + 500, strict=True)
    images = [
        image(f"{patient}-{number}", label=int(label), patient=str(patient), width=int(width), height=int(width))
        for patient, label, width in patients
        for number in range(8)
    ]
    grouped = audit(images, LABELS)["label_from_encoding"]["PNEUMONIA"]["auc"]
    alone = audit([dataclasses.replace(item, patient=item.path) for item in images], LABELS)
    assert grouped < WARN_AUC
    assert alone["label_from_encoding"]["PNEUMONIA"]["auc"] > 0.95


@pytest.mark.parametrize(("patients", "skipped"), [(MIN_PATIENTS - 1, True), (MIN_PATIENTS, False)])
def test_too_few_patients(patients: int, skipped: bool):
    images = [image(f"n{n}", bytes=10**5 + n) for n in range(30)]
    for n in range(patients):
        images += [image(f"p{n}-{m}", label=1, patient=f"p{n}", bytes=3 * 10**5 + n) for m in range(4)]
    found = audit(images, LABELS)["label_from_encoding"]["PNEUMONIA"]
    assert ("skipped" in found) == skipped
    if skipped:
        assert found == {"skipped": "needs at least 10 patients on either side; there are 30 and 9"}
    else:
        assert found["auc"] > 0.9


def test_only_train_is_asked_for_the_label():
    images = [image(f"{n}", label=n % 2, bytes=10**5 + n) for n in range(60)]
    images += [image(f"t{n}", "test", label=n % 2, bytes=10**5 + 10**6 * (n % 2)) for n in range(60)]
    found = audit(images, LABELS)["label_from_encoding"]["PNEUMONIA"]
    assert found["images"] == 60
    assert found["auc"] < WARN_AUC


def test_a_split_that_is_encoded_differently():
    images = [image(f"{n}", label=n % 2, bytes=10**5 + 97 * n % 3001) for n in range(60)]
    images += [image(f"t{n}", "test", label=n % 2, quantisation=(2,) * 64) for n in range(30)]
    images += [image(f"v{n}", "val", label=n % 2, bytes=10**5 + 89 * n % 3001) for n in range(30)]
    report = audit(images, LABELS)
    assert list(report["split_from_encoding"]) == ["val", "test"]
    assert report["split_from_encoding"]["test"]["auc"] > 0.95
    assert report["split_from_encoding"]["val"]["auc"] < WARN_AUC
    (line,) = warnings_of(report, "SHIFT")
    assert line.startswith("SHIFT: images of 'test' are encoded differently from those of 'train', AUC ")


def test_three_labels_are_asked_one_by_one():
    images = [image(f"{n}", label=n % 3, icc_profile=n % 3 == 1, bytes=10**5 + 97 * n % 3001) for n in range(90)]
    found = audit(images, ("a", "b", "c"))["label_from_encoding"]
    assert set(found) == {"a", "b", "c"}
    assert found["b"]["auc"] > 0.95
    assert found["b"]["single"]["ICC profile"] == 1.0


def test_the_order_of_the_images_does_not_matter():
    size = {"bytes": lambda label, rng: int(rng.normal(1e5, 3e4))}
    images = list(spread(60, lambda n, rng: int(rng.random() < 0.5), **size))
    assert audit(images, LABELS) == audit(images[::-1], LABELS)

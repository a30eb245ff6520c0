"""What folders are taken for, and where the evidence does not decide."""

from __future__ import annotations

import re

import pytest

from beam_jobs.sources.structure import check_alike, read_folders, read_pattern
from cxr.errors import InputError


def tree(*folders: str, images: int = 2) -> list[str]:
    return [f"{folder}/{number}.png" for folder in folders for number in range(images)]


def test_what_was_decided_is_described():
    found = read_folders(tree("set/train/NORMAL", "set/train/TB", "set/valid/TB"), "in")
    assert found.described == (
        "labels from the third folder: NORMAL 2, TB 4", "splits from the second folder: train 4, val 2"
    )  # fmt: skip
    assert {(image.split, image.label) for image in found.images} == {
        ("train", "NORMAL"),
        ("train", "TB"),
        ("val", "TB"),
    }
    assert read_folders(tree("N", "P"), "in").described == ("labels from the first folder: N 2, P 2",)


DOUBTED = {
    "parts": (tree("images_001/images", "images_002/images"), "parts of a download: images_001, images_002"),
    "numbered folders": (tree("part1", "part 2", "part-3"), "parts of a download: part 2, part-3, part1"),
    "MIMIC": (tree("files/p10/p10000032", "files/p11/p11000011"), "parts of a download: p10, p11"),
    "folds": (tree("fold0", "fold1"), "look like folds: fold0, fold1"),
    "patients": (tree("patient00001/study1", "patient00002/study1"), "patients or studies: patient00001, patient00002"),
    "kinds": (tree("images", "masks"), "kinds of files: images, masks"),
    "formats": (tree("png", "dicom"), "kinds of files: dicom, png"),
    "views": (tree("frontal", "lateral"), "views: frontal, lateral"),
    "numbers": (tree("0", "1"), "numbers: 0, 1"),
    "nan": (tree("NORMAL", "nan"), "numbers: nan"),
    "one of several": (tree("NORMAL", "TB", "masks"), "kinds of files: masks"),
    "splits in splits": (tree("train/test", "train/val"), "splits: test, val"),
    "unlabelled": (tree("NORMAL", "TB", "unlabelled"), "splits: unlabelled"),
    "masks beside images": (
        tree("COVID/images", "COVID/masks", "Normal/images", "Normal/masks"),
        r"folders images and masks lie in more than one class \(COVID, Normal\).*'\(\?P<label>\[\^/\]\+\)/images/'",
    ),
    "masks beside images in splits": (
        tree("train/A/images", "train/A/masks", "train/B/images", "train/B/masks"), "images and masks lie in more than",
    ),
    "splits below classes": (tree("A/train", "A/test", "B/train", "B/test"), "test and train lie in.*<split>test"),
    "test images of RSNA": (tree("stage_2_train_images", "stage_2_test_images"), "look like splits"),
    "sets": (tree("training_set", "test_set"), "splits: test_set, training_set"),
    "Montgomery": (tree("CXR_png", "ManualMask"), "kinds of files: CXR_png, ManualMask"),
    "UIDs": (tree("1.2.840.10008", "1.2.840.10009"), "patients or studies"),
    "dates": (tree("2020-01-05", "20200106"), "dates: 2020-01-05, 20200106"),
    "names of persons": (tree("DOE^JANE", "DOE^JOHN"), "patients or studies"),
    "copies": (tree("NORMAL", "NORMAL_augmented"), "kinds of files: NORMAL_augmented"),
    "archives": (tree("A.zip", "B.zip"), "parts of a download: A.zip, B.zip"),
    "hospitals": (tree("A/NORMAL", "A/TB", "B/NORMAL", "B/TB"), r"'\(\?P<label>NORMAL\|TB\)/'"),
    "one class without masks": (tree("A/images", "A/masks", "B/images", "C/masks"), "images and masks lie in"),
}  # fmt: skip


@pytest.mark.parametrize("name", DOUBTED)
def test_structures_that_are_doubted(name: str):
    paths, message = DOUBTED[name]
    with pytest.raises(InputError, match=message) as caught:
        read_folders(paths, "in")
    assert "--label-pattern" in str(caught.value)
    assert read_folders(paths, "in", trusted=True).images


def test_classes_that_are_named_settle_it():
    found = read_folders(tree("0", "1"), "in", classes=("0", "1"))
    assert {image.label for image in found.images} == {"0", "1"}
    with pytest.raises(InputError, match="numbers: 0, 1"):
        read_folders(tree("0", "1", "2"), "in", classes=("0", "1"))


@pytest.mark.parametrize(
    "paths",
    [
        tree("NORMAL", "PNEUMONIA"),
        tree("A/patient1", "A/patient2", "B/patient1", "B/patient2"),
        tree("A/images", "B/images"),
        tree("Lung_Opacity", "Viral Pneumonia", "COVID", "Normal"),
        tree("covid19", "stage2", "B12"),
    ],
)
def test_structures_that_are_not_doubted(paths: list[str]):
    assert len(read_folders(paths, "in").images) == len(paths)


def test_a_pattern():
    paths = [*tree("COVID/images", "COVID/masks", "Normal/images"), "COVID.metadata.txt"]
    found = read_pattern(paths, "in", re.compile("([^/]+)/images/"))
    assert [(image.path, image.split, image.label) for image in found.images] == [
        (path, None, path.split("/")[0]) for path in paths if "/images/" in path
    ]
    assert found.described == ("labels from --label-pattern: COVID 2, Normal 2; 3 files left out",)
    found = read_pattern(tree("TB/training", "TB/dev"), "in", re.compile("(?P<label>TB)/(?P<split>[^/]+)/"))
    assert found.described[1] == "splits from --label-pattern: train 2, val 2"
    with pytest.raises(InputError, match="--label-pattern 'x\\(y\\)' matches none of the 2 files of in"):
        read_pattern(tree("A"), "in", re.compile("x(y)"))


@pytest.mark.parametrize(
    "names",
    [("NORMAL", "Normal"), ("no finding", "No_Finding"), ("a b", "a  b"), ("Straße", "STRASSE"), ("é", "e\u0301")],
)
def test_labels_that_differ_in_case_or_spacing(names):
    with pytest.raises(InputError, match=r"the labels .* of in differ in case, spaces or signs alone.*--rename-labels"):
        check_alike([*names, "other"], "in")


def test_labels_that_differ():
    check_alike(["TB", "TB2", "Mass", "Masses", "+", "-", "COVID+", "COVID-"], "in")

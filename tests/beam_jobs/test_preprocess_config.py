"""Every refused option names its flag, what was expected and what was received."""

from __future__ import annotations

import math
from typing import Any

import pytest

from beam_jobs.preprocess_config import PreprocessConfig
from cxr.errors import InputError


def make(**options: Any) -> PreprocessConfig:
    return PreprocessConfig("in", "out", **options)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("split", "random", "one of folder, patient"),
        ("labels", "multi", "one of binary, cause"),
        ("encoding", "jpeg", "one of source, png, raw"),
        ("rung_encoding", "source", "one of png, raw"),
        ("duplicates", "ignore", "one of keep, drop, fail"),
        ("fractions", (0.8, 0.2), "3 values separated by commas, each a number from 0 to 1"),
        ("fractions", (0.8, 0.1, 0.2), "sum to 1"),
        ("fractions", (1.2, -0.1, -0.1), "from 0 to 1"),
        ("fractions", (0.0, 0.5, 0.5), "the first above 0"),
        ("fractions", (math.nan, 0.5, 0.5), "3 values"),
        ("val_fraction", 1.0, "a number of at least 0 and below 1"),
        ("val_fraction", -0.1, "a number of at least 0 and below 1"),
        ("val_fraction", math.nan, "a number of at least 0 and below 1"),
        ("max_reject_fraction", 1.01, "a number from 0 to 1"),
        ("max_reject_fraction", -0.01, "a number from 0 to 1"),
        ("shard_mb", 0, "a number above 0"),
        ("shard_mb", math.inf, "a number above 0"),
        ("max_megapixels", 0, "a number above 0"),
        ("max_megapixels", math.inf, "a number above 0"),
        ("max_megapixels", math.nan, "a number above 0"),
        ("sizes", (256, 7), "a whole number of at least 8"),
        ("sizes", (256, 512, 256), "different values"),
        ("classes", ("NORMAL",), "2 or more different values"),
        ("classes", ("NORMAL", "NORMAL"), "2 or more different values"),
        ("name", "CXR", "lower-case letters, digits and _"),
        ("name", "cxr-2", "lower-case letters, digits and _"),
        ("name", "2cxr", "lower-case letters, digits and _"),
        ("name", "", "lower-case letters, digits and _"),
    ],
)
def test_refused_options(option: str, value: Any, expected: str):
    with pytest.raises(InputError) as caught:
        make(**{option: value})
    received, _, wanted = str(caught.value).partition(": expected ")
    assert received == f"{option}={value!r}"
    assert expected in wanted


def test_another_salt_is_another_result_and_cannot_be_read_off():
    """Every DICOM patient key depends on the salt, and so does a split by patient."""
    one, two = (make(patient_salt=salt).result_options()["patient_salt"] for salt in ("one", "two"))
    assert one != two
    assert make().result_options()["patient_salt"] is None
    assert len(one) == 16


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"fractions": (0.8, 0.1, 0.1), "split": "folder"}, "--fractions"),
        ({"val_fraction": 0.1, "split": "patient"}, "--val-fraction"),
        ({"val_fraction": 0.1, "fractions": (0.8, 0.1, 0.1)}, "--val-fraction"),
        ({"tfds_data_dir": "x"}, "--tfds-data-dir"),
        ({"classes": ("a", "b"), "labels": "cause"}, "expected no --classes with --labels cause"),
        ({"patient_pattern": "no group"}, "--patient-pattern"),
    ],
)
def test_options_that_would_be_ignored_or_cannot_work_are_refused(options, flag):
    with pytest.raises(InputError, match=flag):
        make(**options)


def test_limits_that_are_allowed():
    make(fractions=(1.0, 0.0, 0.0), max_reject_fraction=1, sizes=(8,), shard_mb=0.01)
    make(val_fraction=0)
    assert make(fractions=(0.7, 0.2, 0.1)).fractions == (0.7, 0.2, 0.1)  # 0.9999999999999999 in floating point


def test_max_pixels_and_salt():
    assert make().max_pixels == 100_000_000
    assert make(max_megapixels=0.5).max_pixels == 500_000
    assert make(seed=3).salt != make(seed=4).salt
    assert make(seed=3, patient_salt="").salt == ""
    assert make(patient_salt="x").salt == "x"


def test_result_options_hold_what_changes_the_result_and_no_secret():
    options = make(sizes=(512, 256), patient_salt="secret").result_options()
    assert options["sizes"] == [512, 256]
    assert make(fractions=(0.8, 0.1, 0.1)).result_options()["fractions"] == [0.8, 0.1, 0.1]
    assert "secret" not in repr(options)
    for change in ({"split": "patient"}, {"encoding": "raw"}, {"labels": "cause"}, {"sizes": (64,)}, {"name": "x"}):
        assert make(**change).result_options() != make().result_options(), change
    assert make(max_reject_fraction=0.5, overwrite=True).result_options() == make().result_options()
    assert make(seed=1).result_options() != make().result_options()

"""What a stream can be asked for: bad values are named."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from cxr.errors import InputError
from cxr.machine import usable_cores
from tfrecords.images.fit_modes import LARGEST_SIZE
from tfrecords.streaming.stream_options import StreamOptions

SIZE = f"a side of 1 to {LARGEST_SIZE} pixels, (height, width), or None"
BAD = [
    *((name, 0, "a whole number of at least 1") for name in ("batch_size", "shuffle_mb", "prefetch", "max_buckets")),
    *((name, 0, "a whole number of at least 1") for name in ("epochs", "threads")),
    *((name, -1, "a whole number of at least 0") for name in ("seed", "first_step")),
    *(("batch_size", value, "a whole number of at least 1") for value in (2.0, True, "8", None)),
    *(("image_size", value, SIZE) for value in (0, LARGEST_SIZE + 1, (0, 224), (8, 8.0), (8, True))),
    *(("image_size", value, SIZE) for value in ("224", 224.0, (224,), (1, 2, 3), {"height": 3})),
    *(("fit", value, "one of squash, pad, crop") for value in ("stretch", None)),
    *(("cache", value, "one of auto, memory, disk, none") for value in ("ram", True)),
    ("on_corrupt", "ignore", "one of error, skip"),
    *(("channels", value, "1, 3 or None") for value in (0, 2, "3", 1.0, True)),
    *((name, "no", "true or false") for name in ("training", "balanced", "drop_remainder", "sample_weights")),
    ("metadata", 1, "true or false"),
    ("cache_dir", 5, "the path of a directory"),
    ("rung", 25.6, "the name of a rung"),
    ("split", None, "text"),
]


@pytest.mark.parametrize(("name", "value", "expected"), BAD)
def test_a_bad_value_is_named_with_what_is_expected(name, value, expected):
    options = {"split": "train", "training": True, name: value}
    with pytest.raises(InputError, match=f"^{re.escape(f'{name}={value!r}: expected {expected}')}$"):
        StreamOptions(**options)


def test_options_that_do_not_go_together():
    with pytest.raises(InputError, match=r"balanced=True .* training=True only"):
        StreamOptions("train", balanced=True)
    with pytest.raises(InputError, match="would balance the classes twice"):
        StreamOptions("train", training=True, balanced=True, sample_weights=True)


def test_training_is_endless_and_evaluation_one_pass():
    assert StreamOptions("train", training=True).epochs is None
    assert StreamOptions("train").epochs == 1
    assert StreamOptions("train", training=True, epochs=3).epochs == StreamOptions("train", epochs=3).epochs == 3


def test_what_follows_from_options(monkeypatch):
    assert StreamOptions("train").thread_count == usable_cores() + 1
    assert StreamOptions("train", threads=3).thread_count == 3
    assert StreamOptions("train", cache_dir="/some/place").cache_folder == Path("/some/place")
    monkeypatch.setenv("CXR_CACHE_DIR", "/another/place")
    assert StreamOptions("train").cache_folder == Path("/another/place")
    assert StreamOptions("train", image_size=1).size == (1, 1)
    assert StreamOptions("train", image_size=(3, LARGEST_SIZE)).size == (3, LARGEST_SIZE)
    with pytest.raises(InputError, match="image_size=None: expected pixels"):
        StreamOptions("train", image_size=None).size  # noqa: B018 - raises


def test_options_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        StreamOptions("train").seed = 3


def test_values_that_people_write_otherwise(tmp_path):
    chosen = StreamOptions("train", image_size=[31, 17], rung=512, cache_dir=tmp_path, seed=np.int64(5))
    assert chosen == StreamOptions("train", image_size=(31, 17), rung="512", cache_dir=str(tmp_path), seed=5)
    assert (hash(chosen), type(chosen.seed), chosen.cache_folder) == (hash(dataclasses.replace(chosen)), int, tmp_path)

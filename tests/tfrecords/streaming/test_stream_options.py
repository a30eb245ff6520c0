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
from tfrecords.streaming.sampling import Sampling
from tfrecords.streaming.stream_options import StreamOptions

WHOLE = {
    "first_step": 0,
    "prefetch": 1,
    "max_buckets": 1,
    "epochs": 1,
    "threads": 1,
    "batch_size": 1,
    "seed": 0,
    "shuffle_mb": 1,
}
"""Options that are whole numbers, and the least they can be."""


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("offset", [-1, -100, "fraction", "text", "bool"])
def test_whole_numbers_have_a_least_value(name, offset):
    least = WHOLE[name]
    value = {"fraction": 1.5, "text": "1", "bool": True}[offset] if isinstance(offset, str) else least + offset
    expected = f"{name}={value!r}: expected a whole number of at least {least}"
    with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
        StreamOptions("train", training=True, **{name: value})


@pytest.mark.parametrize("name", WHOLE)
def test_the_least_value_itself_is_fine(name):
    assert getattr(StreamOptions("train", training=True, **{name: WHOLE[name]}), name) == WHOLE[name]


@pytest.mark.parametrize("value", [0, -1, LARGEST_SIZE + 1, (0, 224), (224, LARGEST_SIZE + 1), (8, 8.0), (8, True)])
def test_an_image_size_out_of_range_is_refused(value):
    sides = value if isinstance(value, tuple) else (value,)
    side = next(side for side in sides if type(side) is not int or not 1 <= side <= LARGEST_SIZE)
    expected = f"image_size={side!r}: expected a whole number from 1 to {LARGEST_SIZE}"
    with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
        StreamOptions("train", image_size=value)


@pytest.mark.parametrize("value", ["224", 224.0, (224,), (1, 2, 3), (), {"height": 3}])
def test_an_image_size_of_another_kind_is_refused(value):
    expected = f"image_size={value!r}: expected pixels, (height, width) or None"
    with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
        StreamOptions("train", image_size=value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("fit", "stretch", "expected one of squash, pad, crop"),
        ("fit", None, "expected one of squash, pad, crop"),
        ("cache", "ram", "expected one of auto, memory, disk, none"),
        ("cache", None, "expected one of auto, memory, disk, none"),
        ("cache", True, "expected one of auto, memory, disk, none"),
        ("on_corrupt", "ignore", "expected one of error, skip"),
        ("channels", 2, "expected 1, 3 or None"),
        ("channels", 0, "expected 1, 3 or None"),
        ("channels", "3", "expected 1, 3 or None"),
    ],
)
def test_a_value_that_is_none_of_the_allowed_is_named(name, value, expected):
    with pytest.raises(InputError, match=f"^{re.escape(f'{name}={value!r}: {expected}')}$"):
        StreamOptions("train", training=True, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("training", "balanced", "drop_remainder") for value in ("no", 1, None)),
        *((name, value) for name in ("sample_weights", "metadata") for value in ("no", 1, None)),
        ("channels", 1.0),
        ("channels", True),
        ("cache_dir", 5),
        ("rung", 25.6),
        ("split", None),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(name, value):
    options = {"split": "train", "training": True, name: value}
    with pytest.raises(InputError, match=f"^{re.escape(f'{name}={value!r}')}: expected "):
        StreamOptions(**options)


def test_options_that_do_not_go_together():
    with pytest.raises(InputError, match=r"balanced=True .* training=True only"):
        StreamOptions("train", balanced=True)
    with pytest.raises(InputError, match="would balance the classes twice"):
        StreamOptions("train", training=True, balanced=True, sample_weights=True)


def test_an_unknown_option_is_named_with_those_there_are():
    known = [field.name for field in dataclasses.fields(StreamOptions)][1:]
    with pytest.raises(InputError) as error:
        StreamOptions.of("train", batchsize=3, shuffel=True, seed=1)
    assert str(error.value) == f"unknown option batchsize, shuffel; a stream takes {', '.join(known)}"
    assert StreamOptions.of("train", batch_size=3) == StreamOptions("train", batch_size=3)


def test_training_is_endless_and_evaluation_one_pass():
    assert StreamOptions("train", training=True).epochs is None
    assert StreamOptions("train").epochs == 1
    assert StreamOptions("train", training=True, epochs=3).epochs == 3
    assert StreamOptions("train", epochs=3).epochs == 3


@pytest.mark.parametrize(
    ("value", "size"), [(224, (224, 224)), ((3, 500), (3, 500)), ([8, 9], (8, 9)), (1, (1, 1)), (LARGEST_SIZE,) * 2]
)
def test_size_is_height_and_width(value, size):
    options = StreamOptions("train", image_size=value)
    assert options.size == (size if isinstance(size, tuple) else (size, size))
    assert hash(options) == hash(StreamOptions("train", image_size=tuple(value) if isinstance(value, list) else value))


def test_native_size_has_no_size():
    with pytest.raises(InputError, match="image_size=None: expected pixels"):
        StreamOptions("train", image_size=None).size  # noqa: B018 - raises


def test_what_follows_from_options(monkeypatch):
    assert StreamOptions("train").thread_count == usable_cores() + 1
    assert StreamOptions("train", threads=3).thread_count == 3
    assert StreamOptions("train", cache_dir="/some/place").cache_folder == Path("/some/place")
    monkeypatch.setenv("CXR_CACHE_DIR", "/another/place")
    assert StreamOptions("train").cache_folder == Path("/another/place")
    sampling = Sampling(7, True, 5, 9, True, True)
    options = StreamOptions(
        "train",
        batch_size=7,
        training=True,
        seed=5,
        shuffle_mb=9,
        balanced=True,
        drop_remainder=True,
    )
    assert options.sampling == sampling


def test_options_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        StreamOptions("train").seed = 3


def test_values_that_people_write_otherwise(tmp_path):
    chosen = StreamOptions("train", image_size=[31, 17], rung=512, cache_dir=tmp_path)
    assert (chosen.image_size, chosen.rung, chosen.cache_dir) == ((31, 17), "512", str(tmp_path))
    assert chosen.cache_folder == tmp_path


def test_numbers_of_numpy_are_numbers():
    chosen = StreamOptions("train", first_step=np.int64(5), batch_size=np.int32(7), image_size=np.int16(9))
    assert chosen == StreamOptions("train", first_step=5, batch_size=7, image_size=9)
    assert [type(value) for value in (chosen.first_step, chosen.batch_size, chosen.image_size)] == [int] * 3

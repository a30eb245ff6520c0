"""Streams as they are used: `tf.data` over real data sets, hand-made, preprocessed phantoms, and real X-rays."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import re
import shutil
import warnings
import weakref
from pathlib import Path
from typing import NamedTuple

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from beam_jobs.job import preprocess
from beam_jobs.preprocess_config import PreprocessConfig
from cxr.errors import CorruptError, DatasetError, InputError
from tfrecords.dataset import XrayDataset, open_dataset
from tfrecords.images import codec
from tfrecords.images.fit import fit
from tfrecords.images.fit_modes import FITS
from tfrecords.inspect import read_split
from tfrecords.streaming.buckets import choose_buckets
from tfrecords.streaming.cache import CACHE_MODES, keep_images
from tfrecords.streaming.loader import METADATA, open_loader
from tfrecords.streaming.stream import plain_errors

IN_PROCESS = ("--runner=FnApiRunner", "--direct_num_workers=1", "--direct_running_mode=in_memory")
SHARDS = {"train": (13, 7, 9, 4), "val": (5, 3)}
RECORDS = 33
CODECS = [("raw", 8), ("raw", 16), ("png", 8), ("png", 16), ("source", 8)]


def shape_of(number: int) -> tuple[int, int]:
    return 20 + 7 * number % 31, 18 + 11 * number % 37


@pytest.fixture(scope="module")
def made(make, tmp_path_factory):
    """33 and 8 small raw images of many shapes, with a rung of 16."""
    return make(tmp_path_factory.mktemp("made") / "set", "raw", sizes=(16,), shards=SHARDS, shape=shape_of)


class Caching(XrayDataset):
    """A data set whose streams have other options unless told otherwise."""

    def __init__(self, root: Path, **defaults):
        super().__init__(root)
        self.defaults = defaults

    def options(self, split, **options):
        return super().options(split, **{**self.defaults, **options})


@pytest.fixture(scope="module", params=CACHE_MODES)
def data(made, request, tmp_path_factory) -> XrayDataset:
    """The data set, streamed with every cache in turn."""
    return Caching(made.root, cache=request.param, cache_dir=tmp_path_factory.mktemp("cache"))


class Batch(NamedTuple):
    """An element of a stream with `metadata=True`, as arrays."""

    images: np.ndarray
    labels: np.ndarray
    paths: list[str]
    rows: list[int]

    def same_as(self, other: Batch) -> bool:
        return self.paths == other.paths and all(
            one.dtype == two.dtype and np.array_equal(one, two)
            for one, two in ((self.images, other.images), (self.labels, other.labels))
        )


def batches(stream: tf.data.Dataset) -> list[Batch]:
    found = []
    for images, labels, facts in stream:
        images = images["image"] if isinstance(images, dict) else images
        paths = [path.decode() for path in facts["path"].numpy()]
        found.append(Batch(images.numpy(), labels.numpy(), paths, facts["row"].numpy().tolist()))
    return found


def assert_same(one: list[Batch], other: list[Batch], what: object = "") -> None:
    assert [batch.rows for batch in one] == [batch.rows for batch in other], what
    assert all(first.same_as(second) for first, second in zip(one, other, strict=True)), what


def rows_of(found: list[Batch]) -> list[int]:
    return [row for batch in found for row in batch.rows]


def fitted(pixels: np.ndarray, size: tuple[int, int], how: str = "squash") -> np.ndarray:
    out = np.empty((*size, pixels.shape[2]), pixels.dtype)
    fit(pixels, out, how)
    return out


# ---------------------------------------------------------------------------------------------------------------
# what a batch holds


@pytest.mark.parametrize(("encoding", "bit_depth"), CODECS)
@pytest.mark.parametrize("how", FITS)
def test_every_image_comes_in_stored_order_with_its_own_pixels_and_facts(make, tmp_path, encoding, bit_depth, how):
    made = make(tmp_path / "set", encoding, bit_depth, sizes=(16,))
    options = {"image_size": (19, 23), "batch_size": 2, "fit": how, "metadata": True, "rung": "full"}
    for split in ("train", "val"):
        elements = list(open_dataset(made.root).stream(split, **options))
        expected = made.expected["full"][split]
        assert [len(images) for images, _, _ in elements] == [2] * (len(expected) // 2) + [1] * (len(expected) % 2)
        images = np.concatenate([images.numpy() for images, _, _ in elements])
        assert images.dtype == (np.uint16 if bit_depth == 16 else np.uint8)
        for image, (_, pixels) in zip(images, expected, strict=True):
            np.testing.assert_array_equal(image, fitted(pixels, (19, 23), how))
        labels = np.concatenate([labels.numpy() for _, labels, _ in elements])
        assert labels.dtype == np.int32
        assert labels.tolist() == [record.label for record, _ in expected]
        facts = {name: np.concatenate([facts[name].numpy() for _, _, facts in elements]) for name in METADATA}
        assert facts["row"].tolist() == list(range(len(expected)))
        for name in ("patient", "path", "cause"):
            assert [text.decode() for text in facts[name]] == [getattr(record, name) for record, _ in expected]


def test_sixteen_bits_arrive_as_they_were_stored(make, tmp_path):
    made = make(tmp_path / "set", "raw", 16, sizes=(), shape=lambda _: (40, 30))
    (images, _), *_ = open_dataset(made.root).stream("train", image_size=(40, 30))
    assert images.dtype == tf.uint16
    np.testing.assert_array_equal(images, np.stack([pixels for _, pixels in made.expected["full"]["train"]]))
    assert images.numpy().max() == 65535
    assert images.numpy().min() == 0


def test_streams_that_keep_their_images_do_not_mix_them_up(made, data):
    """Streams over one split that differ in one option alone, all open at once, and read twice."""
    variants = [{}, {"fit": "pad"}, {"fit": "crop"}, {"image_size": (9, 13)}, {"channels": 3}, {"rung": "16"}]
    variants = [{"image_size": (13, 9), "rung": "full", "fit": "squash", **variant} for variant in variants]
    streams = [data.stream("val", batch_size=3, **variant) for variant in variants]
    for _ in range(2):
        for stream, variant in zip(streams, variants, strict=True):
            images = np.concatenate([images.numpy() for images, _ in stream])
            for image, (_, pixels) in zip(images, made.expected[variant["rung"]]["val"], strict=True):
                expected = fitted(pixels, variant["image_size"], variant["fit"])
                np.testing.assert_array_equal(image, np.repeat(expected, variant.get("channels", 1), axis=2))


@pytest.mark.parametrize("bit_depth", [8, 16])
@pytest.mark.parametrize("stored", [(1,), (3,), (1, 3)])
@pytest.mark.parametrize("asked", [None, 1, 3])
def test_channels_are_those_asked_for(make, tmp_path, bit_depth, stored, asked):
    made = make(tmp_path / "set", "raw", bit_depth, channels=stored, sizes=())
    stream = open_dataset(made.root).stream("train", image_size=24, channels=asked)
    wanted = asked or (1 if stored == (1,) else 3)
    assert stream.element_spec[0].shape.as_list() == [None, 24, 24, wanted]
    (images, _), *_ = stream
    for image, (_, pixels) in zip(images.numpy(), made.expected["full"]["train"], strict=True):
        if pixels.shape[2] == wanted:
            source = pixels
        elif wanted == 3:
            source = np.repeat(pixels, 3, axis=2)
        else:  # ITU-R BT.601 luma, to the nearest level
            source = np.round(pixels @ np.array([0.299, 0.587, 0.114])).astype(pixels.dtype)[..., None]
        off = np.abs(image.astype(int) - fitted(source, (24, 24)))
        assert off.max() <= (0 if pixels.shape[2] == wanted or wanted == 3 else 2)


def test_several_labels_an_image_are_zeros_and_ones(make, tmp_path):
    made = make(tmp_path / "set", "png", multi_label=True)
    data = open_dataset(made.root)
    stream = data.stream("train", image_size=8, batch_size=5)
    assert stream.element_spec[1] == tf.TensorSpec([5, 3], tf.float32)
    ((_, labels),) = stream
    assert labels.numpy().tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]]
    for options in ({"sample_weights": True}, {"balanced": True, "training": True}):
        with pytest.raises(InputError, match="this data set is multi-label"):
            data.stream("train", **options)


def test_sample_weights_are_those_of_scikit_learn(make, tmp_path):
    made = make(tmp_path / "set", "raw", sizes=(), shards={"train": (11, 8), "val": (2,)}, shape=lambda _: (9, 9))
    data = open_dataset(made.root)
    labels = np.array([record.label for record, _ in made.expected["full"]["train"]])
    assert sorted(np.bincount(labels).tolist()) == [6, 6, 7]
    weights = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert data.class_weights() == pytest.approx(dict(enumerate(weights)), rel=1e-12)
    elements = list(data.stream("train", image_size=9, batch_size=4, training=True, epochs=1, sample_weights=True))
    for _, found, weight in elements:
        assert weight.dtype == tf.float32
        np.testing.assert_allclose(weight, weights[found.numpy()], rtol=1e-6)
    assert sum(float(tf.reduce_sum(weight)) for _, _, weight in elements) == pytest.approx(len(labels), rel=1e-6)
    # a class without an image: only those that are there share the weight
    two = sorted(record.label for record, _ in made.expected["full"]["val"])
    found = data.class_weights("val")
    assert found == {label: (1.0 if label in two else 0.0) for label in range(3)}


# ---------------------------------------------------------------------------------------------------------------
# the laws of the order, through tf.data


def drawn(number: int) -> dict:
    rng = np.random.default_rng([8, number])
    training = number % 4 != 3
    options = {
        "image_size": None if number % 6 == 5 else int(rng.integers(4, 30)),
        "batch_size": int(rng.integers(2, 9)),
        "training": training,
        "seed": int(rng.integers(0, 2**33)),
        "epochs": 3,
        "drop_remainder": bool(number % 3 == 1),
        "metadata": True,
    }
    options["balanced"] = training and options["image_size"] is not None and number % 5 == 0
    return options


@pytest.mark.parametrize("number", range(6))
def test_a_stream_is_a_pure_function_of_its_options(made, data, number):
    options = drawn(number)
    steps = data.steps_per_epoch("train", **options)
    stream = data.stream("train", **options, threads=1, prefetch=1)
    whole = batches(stream)
    assert len(whole) == 3 * steps == int(stream.cardinality())
    with pytest.warns(UserWarning, match="read again") if options["training"] else contextlib.nullcontext():
        assert_same(batches(stream), whole, "the same Dataset again")
    assert_same(batches(data.stream("train", **options, threads=4, prefetch=8)), whole, "four threads")
    for first in (0, 1, steps, steps + steps // 2, 2 * steps + 1, 3 * steps):
        assert_same(batches(data.stream("train", **options, first_step=first)), whole[first:], first)

    native = options["image_size"] is None
    for batch in whole:
        for row, path, image, label in zip(batch.rows, batch.paths, batch.images, batch.labels, strict=True):
            rung = "full" if native or options["image_size"] > 16 else "16"
            record, pixels = made.expected[rung]["train"][row]
            assert (record.path, record.label) == (path, label)
            if native:
                height, width, _ = pixels.shape
                np.testing.assert_array_equal(image[:height, :width], pixels)
            else:
                np.testing.assert_array_equal(image, fitted(pixels, (options["image_size"],) * 2))


def test_the_order_of_a_seed_is_this_one(data):
    stream = data.stream("train", image_size=4, batch_size=11, training=True, seed=11, epochs=2, metadata=True)
    assert [batch.rows for batch in batches(stream)] == GOLDEN


GOLDEN = [
    [20, 32, 8, 26, 16, 4, 30, 17, 15, 19, 9],
    [12, 3, 31, 24, 14, 11, 1, 7, 0, 2, 13],
    [5, 25, 23, 10, 6, 28, 29, 22, 21, 18, 27],
    [20, 23, 21, 17, 7, 30, 27, 22, 24, 0, 18],
    [5, 31, 11, 14, 9, 15, 16, 32, 10, 13, 2],
    [12, 28, 3, 1, 26, 4, 6, 19, 8, 25, 29],
]
"""Whoever changes it breaks every run that is to be resumed."""


def test_evaluation_can_go_on_in_the_middle_of_its_second_pass(data):
    whole = batches(data.stream("val", image_size=4, batch_size=3, epochs=2, metadata=True))
    assert [batch.rows for batch in whole] == [[0, 1, 2], [3, 4, 5], [6, 7]] * 2
    resumed = batches(data.stream("val", image_size=4, batch_size=3, epochs=2, metadata=True, first_step=4))
    assert [batch.rows for batch in resumed] == [[3, 4, 5], [6, 7]]


def test_endless_training_goes_on_where_it_was_stopped(data):
    options = {"image_size": 4, "batch_size": 7, "training": True, "seed": 3, "metadata": True}
    whole = batches(data.stream("train", **options).take(40))
    for stopped in (0, 7, 13, 39):
        resumed = batches(data.stream("train", **options, first_step=stopped).take(40 - stopped))
        assert_same(resumed, whole[stopped:], stopped)
    epochs = [sorted(rows_of(whole[begin : begin + 5])) for begin in range(0, 40, 5)]
    assert epochs == [list(range(RECORDS))] * 8
    assert len({str(rows_of(whole[begin : begin + 5])) for begin in range(0, 40, 5)}) == 8


def test_balanced_streams_show_each_class_equally_often(made, data):
    options = {"image_size": 4, "batch_size": 4, "training": True, "balanced": True, "epochs": 4}
    labels = np.concatenate([found.numpy() for _, found in data.stream("val", **options)])
    stored = np.bincount([record.label for record, _ in made.expected["full"]["val"]], minlength=3)
    assert sorted(stored.tolist()) == [2, 3, 3]
    for epoch in labels.reshape(4, 8):
        assert np.ptp(np.bincount(epoch, minlength=3)) <= 1


# ---------------------------------------------------------------------------------------------------------------
# what the Dataset object says of itself


@pytest.mark.parametrize("batch_size", [1, 4, 33, 50])
@pytest.mark.parametrize("image_size", [(5, 9), None])
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_specs_and_cardinality_are_what_comes(data, batch_size, image_size, drop_remainder):
    options = {
        "image_size": image_size,
        "batch_size": batch_size,
        "drop_remainder": drop_remainder,
        "sample_weights": True,
        "metadata": True,
        "max_buckets": 1 if batch_size == 4 else 8,
    }
    if drop_remainder and batch_size == 50:
        with pytest.raises(InputError, match="leaves no batch: 33 examples in batches of 50"):
            data.stream("train", **options)
        return
    if drop_remainder and image_size is None and batch_size == 33:
        return  # depends on the buckets, see test_sampling
    stream = data.stream("train", **options)
    elements = list(stream)
    assert int(stream.cardinality()) == len(elements) == data.steps_per_epoch("train", **options)
    spec = tf.nest.flatten(stream.element_spec)
    for element in elements:
        tf.nest.assert_same_structure(stream.element_spec, element)
        for one, tensor in zip(spec, tf.nest.flatten(element), strict=True):
            assert one.dtype == tensor.dtype
            assert one.shape.is_compatible_with(tensor.shape)
    for place, one in enumerate(spec):
        found = {tuple(tf.nest.flatten(element)[place].shape) for element in elements}
        varying = [len(set(sizes)) > 1 for sizes in zip(*found, strict=True)]
        if image_size is not None or batch_size == 4:  # else a split may happen to have one bucket of several
            assert [size is None for size in one.shape] == (varying if batch_size <= 33 else [True, *varying[1:]])
    images = stream.element_spec[0]
    assert isinstance(images, dict) == (image_size is None)
    assert tf.nest.flatten(images)[0].dtype == tf.uint8
    facts = stream.element_spec[-1]
    assert [facts[name].dtype for name in METADATA] == [tf.string] * 3 + [tf.int64]


def test_the_batch_dimension_is_static_where_every_batch_is_full(data):
    for batch_size, options, static in (
        (11, {}, True),
        (10, {}, False),
        (10, {"drop_remainder": True}, True),
    ):
        spec = data.stream("train", image_size=8, batch_size=batch_size, **options).element_spec
        assert spec[0].shape.as_list() == [batch_size if static else None, 8, 8, 1]
        assert spec[1].shape.as_list() == [batch_size if static else None]


def test_training_without_a_number_of_epochs_does_not_end(data):
    stream = data.stream("train", image_size=4, training=True, first_step=3)
    assert int(stream.cardinality()) == tf.data.INFINITE_CARDINALITY


# ---------------------------------------------------------------------------------------------------------------
# native size


@pytest.mark.parametrize(
    ("rung", "limit", "training"), [("full", 1, True), ("full", 8, False), ("16", 2, True), ("full", 8, True)]
)
def test_native_images_lie_at_the_top_left_with_a_mask(made, data, rung, limit, training):
    options = {"image_size": None, "batch_size": 5, "max_buckets": limit, "rung": rung, "training": training}
    shapes, rows, epoch_shapes = {}, [], []
    for images, labels, facts in data.stream("train", **options, epochs=1, metadata=True):
        batch, mask = images["image"].numpy(), images["mask"].numpy()
        assert mask.dtype == bool
        assert mask.shape == (*batch.shape[:3], 1)
        epoch_shapes.append(batch.shape[1:3])
        for row, label, image, inside in zip(facts["row"].numpy(), labels.numpy(), batch, mask, strict=True):
            record, pixels = made.expected[rung]["train"][row]
            height, width, _ = pixels.shape
            np.testing.assert_array_equal(image[:height, :width], pixels)
            assert not image[height:].any()
            assert not image[:, width:].any()
            assert inside[:height, :width].all()
            assert inside.sum() == height * width
            assert label == record.label
            shapes[row] = batch.shape[1:3]
            rows.append(int(row))
    assert sorted(rows) == list(range(RECORDS))
    assert 1 <= len(set(epoch_shapes)) <= limit
    again = [tuple(images["image"].shape[1:3]) for images, _ in data.stream("val", **{**options, "training": False})]
    assert set(again) <= _buckets(data, rung, limit), "val has buckets of its own"
    assert set(epoch_shapes) <= _buckets(data, rung, limit)


def _buckets(data: XrayDataset, rung: str, limit: int) -> set[tuple[int, int]]:
    """The shapes that the manifest alone leads to."""
    sizes = data.manifest.sizes
    shapes = choose_buckets(sizes["counts"], sizes["step"], limit, data.manifest.rungs[rung].size)
    return {(height, width) for height, width in shapes.tolist()}


def test_native_sizes_of_wide_and_tall_images_make_several_buckets(make, tmp_path):
    shapes = [(30, 200), (200, 30), (60, 60), (190, 190), (31, 199)]
    made = make(
        tmp_path / "set",
        "png",
        sizes=(20,),
        shards={"train": (9, 11), "val": (5,)},
        shape=lambda number: shapes[number % 5],
    )
    data = open_dataset(made.root)
    for split in ("train", "val"):
        found = {tuple(images["image"].shape[1:3]) for images, _ in data.stream(split, image_size=None, batch_size=3)}
        assert found == {(64, 64), (64, 208), (208, 64), (192, 192)}
        few = {tuple(images["image"].shape[1:3]) for images, _ in data.stream(split, image_size=None, max_buckets=1)}
        assert few == {(208, 208)}
    stream = data.stream("train", image_size=None, max_buckets=1, batch_size=4)
    assert stream.element_spec[0]["image"].shape.as_list() == [4, 208, 208, 1]
    assert stream.element_spec[0]["mask"].shape.as_list() == [4, 208, 208, 1]
    with pytest.raises(InputError, match="balanced=True needs a fixed image_size"):
        data.stream("train", image_size=None, balanced=True, training=True)


# ---------------------------------------------------------------------------------------------------------------
# rungs


@pytest.fixture(scope="module")
def ladder(make, tmp_path_factory):
    made = make(tmp_path_factory.mktemp("ladder") / "set", "raw", sizes=(48, 32, 8), shape=lambda n: (90 + n, 70 + n))
    return made, open_dataset(made.root)


@pytest.mark.parametrize(
    ("image_size", "rung"),
    [
        *((size, "8") for size in (1, 7, 8, (8, 8), (1, 8))),
        *((size, "32") for size in (9, 31, 32, (32, 32), (32, 5), (9, 1))),
        *((size, "48") for size in (33, 48, (33, 8), (48, 48))),
        *((size, "full") for size in (49, 70, 300, (49, 1), (8, 200), None)),
    ],
)
@pytest.mark.parametrize("how", FITS)
def test_the_smallest_rung_that_suffices_is_read(ladder, image_size, rung, how):
    made, data = ladder
    (images, _), *_ = data.stream("train", image_size=image_size, fit=how, batch_size=5, max_buckets=1)
    expected = [pixels for _, pixels in made.expected[rung]["train"]]
    for place, pixels in enumerate(expected):
        if image_size is None:
            height, width, _ = pixels.shape
            np.testing.assert_array_equal(images["image"][place, :height, :width], pixels)
        else:
            size = image_size if isinstance(image_size, tuple) else (image_size, image_size)
            np.testing.assert_array_equal(images[place], fitted(pixels, size, how))


@pytest.mark.parametrize("rung", ["full", "48", "32", "8"])
def test_a_rung_that_is_asked_for_is_read(ladder, rung):
    made, data = ladder
    (images, _), *_ = data.stream("train", image_size=20, rung=rung)
    for image, (_, pixels) in zip(images, made.expected[rung]["train"], strict=True):
        np.testing.assert_array_equal(image, fitted(pixels, (20, 20)))


def test_a_rung_that_is_not_there_is_named_with_those_there_are(ladder):
    with pytest.raises(InputError, match=r"no rung '64'; the data set has full, 48, 32, 8$"):
        ladder[1].stream("train", rung="64")


def test_without_rungs_the_full_images_are_read(make, tmp_path):
    made = make(tmp_path / "set", "png", sizes=())
    (images, _), *_ = open_dataset(made.root).stream("val", image_size=6)
    for image, (_, pixels) in zip(images, made.expected["full"]["val"], strict=True):
        np.testing.assert_array_equal(image, fitted(pixels, (6, 6)))


@pytest.fixture(scope="module")
def phantom_set(phantoms, tmp_path_factory) -> XrayDataset:
    """The phantoms as the job writes them: 122 to 529 pixels high."""
    output = tmp_path_factory.mktemp("phantom_set") / "data"
    preprocess(PreprocessConfig(str(phantoms), str(output), sizes=(256, 128)), IN_PROCESS, quiet=True)
    return open_dataset(output)


@pytest.fixture(scope="module")
def xray_set(fullres, tmp_path_factory) -> XrayDataset:
    """24 originals, 0.4 to 6 megapixels, as the job writes them."""
    folder = tmp_path_factory.mktemp("xrays")
    for path in sorted(fullres.rglob("*.jpeg"))[::8]:
        target = folder / "images" / path.relative_to(fullres)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    config = PreprocessConfig(str(folder / "images"), str(folder / "data"), sizes=(256,), val_fraction=0)
    preprocess(config, IN_PROCESS, quiet=True)
    return open_dataset(folder / "data")


def shifted(image: np.ndarray, right: float, down: float) -> np.ndarray:
    matrix = np.array([[1, 0, right], [0, 1, down]], np.float32)
    return cv2.warpAffine(image, matrix, image.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


def shift_between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """By how many pixels down and right the second image lies from the first, by least squares (Lucas and Kanade)."""
    slopes = np.stack([slope[4:-4, 4:-4].ravel() for slope in np.gradient((one + other) / 2)], axis=1)
    return np.linalg.lstsq(slopes, (one - other)[4:-4, 4:-4].ravel(), rcond=None)[0]


def pictures(data: XrayDataset, rung: str, size: int, how: str) -> np.ndarray:
    stream = data.stream("train", image_size=size, fit=how, rung=rung, batch_size=1000, cache="none")
    return next(iter(stream))[0].numpy()[..., 0].astype(np.float32)


def inner_size(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Of the picture within the borders of `pad`."""
    scale = size / max(shape[:2])
    return round(shape[0] * scale), round(shape[1] * scale)


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize(
    ("name", "size", "rung"),
    [("phantom_set", 224, "256"), ("phantom_set", 96, "128"), ("phantom_set", 128, "128"), ("xray_set", 224, "256")],
)
def test_a_rung_and_the_full_images_give_the_same_batch(request, name, size, rung, how):
    """Averaging twice is averaging once but for the rung's pixels that lie across a border of the result: there the
    mean over all of the rung's pixel stands for the mean over a part of it. So the mean difference is less than what
    the image differs from its own rung, each pixel from the mean around it, plus three roundings of 1/4 at a mean.
    Measured on the X-rays 0.4 to 0.7 levels, and below 1.3 on each image; on the phantoms, noisier, below 1.3."""
    data = request.getfixturevalue(name)
    from_full, from_rung = pictures(data, "full", size, how), pictures(data, rung, size, how)
    large, small = (
        [codec.decode(record) for record in read_split(data.root, data.manifest, name, "train")]
        for name in ("full", rung)
    )
    means, shifts = [], []
    for full, other, whole, reduced in zip(from_full, from_rung, large, small, strict=True):
        if how == "pad" and inner_size(whole.shape, size) != inner_size(reduced.shape, size):
            # the rung's own size is whole pixels, so the picture may end a line earlier or later
            for one, two in zip(inner_size(whole.shape, size), inner_size(reduced.shape, size), strict=True):
                assert abs(one - two) <= 1
            continue
        mean = float(np.abs(full - other).mean())
        height, width, _ = whole.shape
        enlarged = cv2.resize(reduced, (width, height), interpolation=cv2.INTER_NEAREST).astype(float)
        detail = float(np.abs(enlarged - whole[..., 0]).mean())
        assert mean <= detail + 0.75, (mean, detail)
        assert mean < 1.5
        means.append(mean)
        if mean < 0.05:
            continue  # the rung is the image itself, there is nothing to shift
        inside = np.s_[4:-4, 4:-4]
        fit_there = np.abs(full - other)[inside].mean()
        for right, down in ((0.25, 0), (-0.25, 0), (0, 0.25), (0, -0.25), (1, 0), (0, 1)):
            assert np.abs(shifted(other, right, down) - full)[inside].mean() > fit_there, (right, down)
        shifts.append(shift_between(full, other))
        correlation = np.fft.irfft2(np.fft.rfft2(full - full.mean()) * np.fft.rfft2(other - other.mean()).conj())
        assert correlation.argmax() == 0
    assert len(means) > 0.6 * len(from_full)
    assert np.mean(means) < 1.0
    # a rung's long side is whole pixels, so one of `crop` is up to 1/500 larger or smaller than it should be
    assert np.abs(shifts).max() < (0.06 if how == "squash" else 0.12)
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.01
    assert abs(float((from_full - from_rung).mean())) < 0.2, "brighter or darker"


def test_a_rung_is_chosen_for_the_job_s_own_data_sets(phantom_set):
    for size, rung in ((224, "256"), (256, "256"), (128, "128"), (257, "full")):
        chosen = next(iter(phantom_set.stream("val", image_size=size, batch_size=3)))[0]
        asked = next(iter(phantom_set.stream("val", image_size=size, batch_size=3, rung=rung)))[0]
        np.testing.assert_array_equal(chosen, asked)


def test_a_preprocessed_set_streams_every_image_once(phantom_set):
    for split in phantom_set.splits:
        for options in ({"image_size": 32}, {"image_size": None, "rung": "128"}, {"image_size": 16}):
            found = batches(phantom_set.stream(split, **options, training=True, epochs=1, metadata=True))
            paths = [path for batch in found for path in batch.paths]
            assert len(set(paths)) == len(paths) == phantom_set.images(split)
            for batch in found:
                names = [phantom_set.labels[label] for label in batch.labels]
                assert names == [path.split("/")[1] for path in batch.paths]


# ---------------------------------------------------------------------------------------------------------------
# damage, and data sets that change


def damage(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


def test_a_damaged_record_stops_the_stream_and_is_named(made, make, tmp_path):
    copy = make(tmp_path / "set", "raw", sizes=(), shards={"train": (3, 2)})
    shard = copy.shard("train", 1)
    damage(shard, shard.stat().st_size // 4)
    data = open_dataset(copy.root)
    stream = data.stream("train", image_size=8, batch_size=1, metadata=True, threads=1)
    found = []
    with pytest.raises(CorruptError, match=rf"{re.escape(str(shard))}: record 0 at byte 0: .*CRC") as error:  # noqa: SIM117
        with plain_errors():
            for _, _, facts in stream:
                found += facts["row"].numpy().tolist()
    assert found == [0, 1, 2]
    assert isinstance(error.value.__cause__, tf.errors.OpError)
    with pytest.raises(tf.errors.OpError, match="record 0 at byte 0"):
        list(stream)
    with pytest.warns(UserWarning, match=r"skipped 1 of 5 records of split 'train'; first fault: .*record 0 at byte 0"):
        skipping = data.stream("train", image_size=8, batch_size=1, metadata=True, on_corrupt="skip")
    assert [facts["path"].numpy()[0].decode() for _, _, facts in skipping] == [
        record.path for record, _ in copy.expected["full"]["train"][:3] + copy.expected["full"]["train"][4:]
    ]


def test_a_missing_shard_is_named_before_anything_streams(make, tmp_path):
    copy = make(tmp_path / "set", "raw", sizes=())
    data = open_dataset(copy.root)
    copy.shard("train", 1).unlink()
    with pytest.raises(DatasetError, match=rf"cannot read the shard {re.escape(str(copy.shard('train', 1)))}"):
        data.stream("train", image_size=8)


def turned_labels(made, split: str = "train", index: int = 0) -> list:
    """The records of a shard, each with the next label: as many bytes at the same places."""
    return [dataclasses.replace(record, label=(record.label + 1) % 3) for record in made.records(split, index)]


def test_a_data_set_that_was_written_anew_has_to_be_opened_anew(make, tmp_path):
    copy = make(tmp_path / "set", "raw", sizes=())
    data = open_dataset(copy.root)
    copy.rewrite(turned_labels(copy))
    message = rf"the data set {re.escape(str(copy.root))} was written anew since it was opened; open it again"
    with pytest.raises(DatasetError, match=message):
        data.stream("train", image_size=8)
    with pytest.raises(DatasetError, match=message):
        data.steps_per_epoch("train", image_size=8)
    ((_, labels),) = open_dataset(copy.root).stream("train", image_size=8)
    assert labels.numpy()[:3].tolist() == [(record.label + 1) % 3 for record in copy.records()]


def test_so_has_one_that_streamed_before(make, tmp_path):
    copy = make(tmp_path / "set", "raw", sizes=())
    data = open_dataset(copy.root)
    list(data.stream("train", image_size=8))
    copy.rewrite(turned_labels(copy))
    with pytest.raises(DatasetError, match="was written anew since it was opened; open it again"):
        data.stream("train", image_size=8)


# ---------------------------------------------------------------------------------------------------------------
# in Keras


class Steps(keras.callbacks.Callback):
    """Counts the batches of each epoch."""

    def __init__(self):
        super().__init__()
        self.seen: list[int] = []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(0)

    def on_train_batch_end(self, batch, logs=None):
        self.seen[-1] += 1


@pytest.mark.parametrize("options", [{}, {"sample_weights": True}, {"balanced": True}], ids=str)
def test_keras_fits_a_stream(data, options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((16, 16, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    options = {"image_size": 16, "batch_size": 8, **options}
    steps = data.steps_per_epoch("train", training=True, **options)
    assert steps == 5
    counter = Steps()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = model.fit(
            data.stream("train", training=True, **options),
            steps_per_epoch=steps,
            epochs=2,
            validation_data=data.stream("val", image_size=16, batch_size=3),
            callbacks=[counter],
            shuffle=False,
            verbose=0,
        ).history
    assert counter.seen == [5, 5]
    assert len(history["loss"]) == len(history["val_loss"]) == 2
    assert np.isfinite(history["loss"] + history["val_loss"]).all()
    predicted = model.predict(data.stream("val", image_size=16, batch_size=3).map(lambda image, _: image), verbose=0)
    assert predicted.shape == (8, 3)


def untrained() -> keras.Model:
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


SMALL = {"image_size": 4, "batch_size": 4}
ENDLESS, FACTS = {**SMALL, "training": True}, {**SMALL, "metadata": True}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda model, data: model.fit(data.stream("train", **ENDLESS), shuffle=False),
            "^fit would never end: .*train",
        ),
        (lambda model, data: model.evaluate(data.stream("train", **ENDLESS)), "^evaluate would never end"),
        (lambda model, data: model.predict(data.stream("train", **ENDLESS)), "^predict would never end"),
        (
            lambda model, data: model.fit(
                data.stream("val", **SMALL), validation_data=data.stream("train", **ENDLESS), shuffle=False
            ),
            "would never end: .*validation_steps=",
        ),
        (lambda model, data: model.fit(data.stream("val", **FACTS), shuffle=False), "^fit takes .*metadata=True adds"),
        (
            lambda model, data: model.evaluate(data.stream("val", **FACTS, sample_weights=True)),
            r"^evaluate takes .*lambda image, label, weight, facts: \(image, label, weight\)\)",
        ),
    ],
)
def test_what_keras_cannot_do_with_a_stream_is_said_at_once(data, call, message):
    with pytest.raises(InputError, match=message):
        call(untrained(), data)


def test_what_keras_can_do_with_the_same_streams(data):
    model, endless = untrained(), data.stream("train", **ENDLESS)
    model.fit(endless, steps_per_epoch=2, validation_data=endless, validation_steps=2, shuffle=False, verbose=0)
    model.evaluate(endless, steps=2, verbose=0)
    assert model.predict(endless, steps=2, verbose=0).shape == (8, 3)
    assert model.predict(data.stream("val", **FACTS), verbose=0).shape == (8, 3)
    model.evaluate(data.stream("val", **FACTS).map(lambda image, label, facts: (image, label)), verbose=0)


def test_a_finite_training_stream_that_keras_reads_again_is_warned_of_once(data):
    stream = data.stream("train", **SMALL, training=True, epochs=1)
    with pytest.warns(UserWarning, match="epochs=1 was read to its end and is now read again, in the same") as caught:
        untrained().fit(stream, epochs=4, shuffle=False, verbose=0)
    assert len(caught) == 1
    assert "steps_per_epoch=9" in str(caught[0].message)


def test_other_streams_may_be_read_again(data):
    endless = data.stream("train", **ENDLESS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for stream in (data.stream("val", **SMALL), endless.take(20)):
            list(stream)
            list(stream)


def test_a_first_step_behind_the_end_is_an_error(dataset):
    data = open_dataset(dataset.root)
    assert list(data.stream("train", image_size=8, batch_size=4, first_step=2)) == []
    with pytest.raises(InputError, match="first_step=3: the stream has 2 batches"):
        data.stream("train", image_size=8, batch_size=4, first_step=3)


@pytest.mark.parametrize("options", [{"training": True, "epochs": 3}, {"epochs": 2}, {"image_size": None}], ids=str)
def test_an_iterator_can_be_checkpointed(data, tmp_path, options):
    options = {**SMALL, **options}
    stream = data.stream("train", **options)
    whole = [labels.numpy().tolist() for _, labels in stream]
    with warnings.catch_warnings(action="ignore"):
        for done in (0, 3, len(whole) - 1):
            iterator = iter(stream)
            for _ in range(done):
                next(iterator)
            path = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "checkpoint"))
            resumed = iter(data.stream("train", **options))
            tf.train.Checkpoint(iterator=resumed).read(path).assert_consumed()
            assert [labels.numpy().tolist() for _, labels in resumed] == whole[done:]


# ---------------------------------------------------------------------------------------------------------------
# what a stream holds goes with it


def held_by(data: XrayDataset, **options) -> list[weakref.ref]:
    """The loader and the cache of a stream that is open."""
    loader = open_loader(data.root, data.manifest.digest, data.options("train", **options))
    return [weakref.ref(loader), weakref.ref(loader.cache)]


def gone(held: list[weakref.ref]) -> bool:
    gc.collect()
    return all(one() is None for one in held)


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / MB


MB = 1 << 20


def test_caches_of_streams_that_were_read_and_deleted_are_freed(data):
    """12 streams, 33 images of 1 MB each."""
    before, held = 0.0, []
    for number in range(12):
        options = {"image_size": 1024 + number, "batch_size": 8, "training": True, "cache_dir": None}
        if data.defaults["cache"] == "disk":
            options |= {"image_size": 64 + number, "cache_dir": data.defaults["cache_dir"]}
        stream = data.stream("train", **options)
        held += held_by(data, **options)
        for _ in stream.take(6):
            pass
        del stream, _
        before = before or resident_mb()
    assert gone(held)
    assert resident_mb() - before < 200


def dataset_of_datasets(stream: tf.data.Dataset) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensors(stream).flat_map(tf.autograph.experimental.do_not_convert(lambda one: one))


def function(stream: tf.data.Dataset) -> tf.types.experimental.ConcreteFunction:
    return tf.function(lambda: next(iter(stream)), autograph=False).get_concrete_function()


HOLDERS = {
    "the stream": lambda stream: stream,
    "an iterator": iter,
    "what is derived from it": lambda stream: stream.cache().take(5).prefetch(1),
    "an iterator of that": lambda stream: iter(stream.take(5)),
    "a dataset of datasets": dataset_of_datasets,
    "a function": function,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_loader_lives_as_long_as_something_can_read_from_it(data, holder):
    options = {**SMALL, "training": True, "seed": 77}
    stream = data.stream("train", **options)
    held = held_by(data, **options)
    holding = HOLDERS[holder](stream)
    del stream
    keras.utils.clear_session()
    assert not any(one() is None for one in held)
    if callable(holding):
        holding()
    else:
        assert len(list(itertools.islice(holding, 4))) == 4
    del holding
    assert gone(held)


def test_a_stream_made_within_a_graph_lives_as_long_as_the_graph(data):
    options = {**SMALL, "seed": 78}

    @tf.autograph.experimental.do_not_convert  # whose messages, which pytest keeps, hold on to the graph
    def inner(_):
        return data.stream("train", **options)

    outer = tf.data.Dataset.range(2).flat_map(inner)
    held = held_by(data, **options)
    assert len(list(outer)) == len(list(outer)) == 18
    del outer
    assert gone(held)


def test_streams_that_are_open_share_a_loader_and_its_images_and_keras_lets_go_of_them(data):
    first = data.stream("train", **ENDLESS)
    held = held_by(data, **ENDLESS)
    second = data.stream("train", **ENDLESS)
    assert held[0]() is held_by(data, **ENDLESS)[0]()
    untrained().fit(first, steps_per_epoch=2, validation_data=second, validation_steps=1, shuffle=False, verbose=0)
    del first
    assert not gone(held)
    del second
    assert gone(held)


def test_images_can_be_kept_for_the_next_stream(data):
    with keep_images():
        list(data.stream("train", **SMALL, cache="memory"))
        loader = open_loader(data.root, data.manifest.digest, data.options("train", **SMALL, cache="memory"))
        assert loader.cache.missing_bytes == 0
        held = [weakref.ref(loader.cache)]
        del loader
        assert not gone(held)
    assert gone(held)

"""What streams hold, in which order, and what the Dataset says of itself: `tf.data` over hand-made data sets."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from cxr.errors import InputError
from tfrecords.dataset import XrayDataset, open_dataset
from tfrecords.images.fit import fit
from tfrecords.streaming.buckets import choose_buckets
from tfrecords.streaming.loader import METADATA

RECORDS = 33
"""In split `train` of the data set that `plain` and `data` stream."""


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


@pytest.mark.parametrize(
    ("encoding", "bit_depth", "how"),
    [("raw", 8, "pad"), ("raw", 16, "crop"), ("png", 8, "squash"), ("png", 16, "pad"), ("source", 8, "crop")],
)
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


@pytest.mark.parametrize("stored", [(1,), (3,), (1, 3)])
@pytest.mark.parametrize("asked", [None, 1, 3])
def test_channels_are_those_asked_for(make, tmp_path, stored, asked):
    made = make(tmp_path / "set", "raw", 16, channels=stored, sizes=())
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


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_labels_that_are_not_known_are_nan_and_groups_come_with_the_metadata(make, tmp_path, cache):
    made = make(tmp_path / "set", "png", multi_label=True, groups=("view", "sex"))
    data = open_dataset(made.root)
    options = {"image_size": 8, "batch_size": 5, "cache": cache, "cache_dir": str(tmp_path / "cache")}
    nan = np.nan
    expected = [[0, 0, 0], [1, nan, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]]
    stream = data.stream("train", **options)
    for _ in range(2):  # the second time from the cache
        ((_, labels),) = stream
        np.testing.assert_array_equal(labels, expected)
    ((_, labels, metadata),) = data.stream("train", metadata=True, **options)
    np.testing.assert_array_equal(labels, expected)
    assert list(metadata) == ["patient", "path", "cause", "row", "view", "sex"]
    assert metadata["view"].numpy().tolist() == [b"PA", b"AP", b"", b"PA", b"AP"]
    assert metadata["sex"].numpy().tolist() == [b"F", b"M", b"F", b"M", b"F"]


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


def test_endless_training_goes_on_where_it_was_stopped(data):
    options = {"image_size": 4, "batch_size": 7, "training": True, "seed": 3, "metadata": True}
    whole = batches(data.stream("train", **options).take(40))
    for stopped in (0, 7, 13, 39):
        resumed = batches(data.stream("train", **options, first_step=stopped).take(40 - stopped))
        assert_same(resumed, whole[stopped:], stopped)
    epochs = [sorted(rows_of(whole[begin : begin + 5])) for begin in range(0, 40, 5)]
    assert epochs == [list(range(RECORDS))] * 8
    assert len({str(rows_of(whole[begin : begin + 5])) for begin in range(0, 40, 5)}) == 8


# ---------------------------------------------------------------------------------------------------------------
# what the Dataset object says of itself


@pytest.mark.parametrize("batch_size", [4, 33, 50])
@pytest.mark.parametrize("image_size", [(5, 9), None])
@pytest.mark.parametrize("drop_remainder", [False, True])
@pytest.mark.parametrize("metadata", [False, True])
def test_specs_and_cardinality_are_what_comes(plain, batch_size, image_size, drop_remainder, metadata):
    options = {
        "image_size": image_size,
        "batch_size": batch_size,
        "drop_remainder": drop_remainder,
        "sample_weights": True,
        "metadata": metadata,  # without it the batches of a fixed size come straight from memory
        "cache": "memory",
        "max_buckets": 1 if batch_size == 4 else 8,
    }
    if drop_remainder and batch_size == 50:
        with pytest.raises(InputError, match="leaves no batch: 33 examples in batches of 50"):
            plain.stream("train", **options)
        return
    if drop_remainder and image_size is None and batch_size == 33:
        return  # depends on the buckets, see test_sampling
    stream = plain.stream("train", **options)
    elements = list(stream)
    assert int(stream.cardinality()) == len(elements) == plain.steps_per_epoch("train", **options)
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
    if metadata:
        facts = stream.element_spec[-1]
        assert [facts[name].dtype for name in METADATA] == [tf.string] * 3 + [tf.int64]


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


def test_a_first_step_behind_the_end_is_an_error(dataset):
    data = open_dataset(dataset.root)
    assert list(data.stream("train", image_size=8, batch_size=4, first_step=2)) == []
    with pytest.raises(InputError, match="first_step=3: the stream has 2 batches"):
        data.stream("train", image_size=8, batch_size=4, first_step=3)

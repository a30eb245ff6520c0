"""What a stream holds goes with the last of its datasets and iterators; iterators can be checkpointed."""

from __future__ import annotations

import gc
import itertools
import warnings
import weakref

import keras
import pytest
import tensorflow as tf

from tfrecords.dataset import XrayDataset
from tfrecords.streaming.cache import MemoryCache, keep_images
from tfrecords.streaming.loader import open_loader

SMALL = {"image_size": 4, "batch_size": 4}
ENDLESS = {**SMALL, "training": True}


def untrained() -> keras.Model:
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("options", [{"training": True, "epochs": 3}, {"epochs": 2}, {"image_size": None}], ids=str)
def test_an_iterator_can_be_checkpointed(data, tmp_path, options):
    options = {**SMALL, **options}
    stream = data.stream("train", **options)
    whole = [labels.numpy().tolist() for _, labels in stream]
    with warnings.catch_warnings(action="ignore"):
        for done in (3, len(whole) - 1):
            iterator = iter(stream)
            for _ in range(done):
                next(iterator)
            path = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "checkpoint"))
            resumed = iter(data.stream("train", **options))
            tf.train.Checkpoint(iterator=resumed).read(path).assert_consumed()
            assert [labels.numpy().tolist() for _, labels in resumed] == whole[done:]


def held_by(data: XrayDataset, **options) -> list[weakref.ref]:
    """The loader and the cache of a stream that is open."""
    loader = open_loader(data.root, data.manifest.digest, data.options("train", **options))
    return [weakref.ref(loader), weakref.ref(loader.cache)]


def gone(held: list[weakref.ref]) -> bool:
    gc.collect()
    return all(one() is None for one in held)


def test_caches_of_streams_that_were_read_and_deleted_are_freed(data):
    held = []
    for number in range(3):
        options = {"image_size": 64 + number, "batch_size": 8, "training": True}
        stream = data.stream("train", **options)
        for _ in stream.take(6):
            pass
        held += held_by(data, **options)
        if isinstance(cache := held[-1](), MemoryCache):
            held.append(weakref.ref(cache._bytes.base))  # the memory itself, which views of it keep too
        del stream, _, cache
    assert gone(held)


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


@pytest.mark.parametrize(
    ("data", "holder"),
    [*(("memory", holder) for holder in HOLDERS), ("none", "an iterator"), ("none", "a function")],
    indirect=["data"],
)
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

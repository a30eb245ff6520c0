"""Batches of a data set as a `tf.data.Dataset`.

    Dataset.range(steps)         the steps of the run
      .map(load, threads)        step -> rows (`sampling`) -> read, decode, fit or cache -> batch (`loader`)
      .prefetch(batches)

A batch is a pure function of the step, which is why shuffling, resuming, sharding and caching are plain
arithmetic on row numbers and need no buffer of records. The work of a batch is done in one call, mostly in
compiled code that releases Python's lock: TensorFlow's own reading, parsing and resizing copy a full-resolution
image five times and resize it at a tenth of the rate (`benchmarks/stream.py`).
"""

from __future__ import annotations

import atexit
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import tensorflow as tf

from cxr import errors
from cxr.errors import CorruptError, DatasetError, InputError, OutputError
from tfrecords.streaming.cache import MemoryCache
from tfrecords.streaming.loader import Loader, open_loader
from tfrecords.streaming.stream_options import StreamOptions

_EXIT_SECONDS = 30.0
"""How long the end of a process waits for batches that are being loaded."""


class _Calls:
    """Counts the calls that TensorFlow's threads have in this process, so that the process can end.

    A thread that asks for Python's lock while the interpreter shuts down never gets it, and TensorFlow waits for
    the calls of an unfinished iterator: left alone, a script that stops in the middle of an epoch hangs at its
    end. So at exit, before the interpreter shuts down, calls are refused until no more come.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._running = 0
        self._seen = 0
        self._closed = False
        atexit.register(self._close)

    def __enter__(self) -> None:
        with self._lock:
            self._seen += 1
            if self._closed:
                raise RuntimeError("no batch: the process is ending")
            self._running += 1

    def __exit__(self, *_) -> None:
        with self._lock:
            self._running -= 1

    def _close(self) -> None:
        self._closed = True
        give_up = time.monotonic() + _EXIT_SECONDS
        seen = -1
        while (self._running or self._seen != seen) and time.monotonic() < give_up:
            seen = self._seen
            time.sleep(0.05)


_CALLS = _Calls()


def make_stream(root: Path, digest: str, options: StreamOptions) -> tf.data.Dataset:
    """The batches of a split.

    Args:
      root: the data set.
      digest: of its manifest, so that a data set written anew is opened anew.
      options: see `StreamOptions`, which also says what an element is.

    Raises:
      CxrError: the data set cannot be read, or the options do not fit it.
    """
    loader = open_loader(root, digest, options)
    specs = _specs(loader)
    types = [spec.dtype for spec in specs]
    # TensorFlow keeps Python functions for good; the loader goes when the stream does, which holds `load` below
    kept = weakref.ref(loader)

    def load_here(step: np.int64) -> tuple[np.ndarray, ...]:
        with _CALLS:
            return _alive(kept).load(int(step))

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking for it takes long
    def load(step: tf.Tensor) -> tuple:
        arrays = tf.numpy_function(load_here, [step], types, stateful=False)
        for array, spec in zip(arrays, specs, strict=True):
            array.set_shape(spec.shape)
        return loader.structure(arrays)

    steps = tf.int64.max if options.epochs is None else options.epochs * loader.plan.steps_per_epoch
    if options.first_step > steps:
        raise InputError(f"first_step={options.first_step}: the stream has {steps} batches")
    dataset = tf.data.Dataset.range(options.first_step, steps)
    if isinstance(loader.cache, MemoryCache) and loader.buckets is None and not options.metadata:
        dataset = _from_memory(loader, load)
    else:
        dataset = dataset.map(load, num_parallel_calls=options.thread_count, deterministic=True)
    settings = tf.data.Options()
    settings.autotune.enabled = False
    settings.threading.private_threadpool_size = options.thread_count + 1
    return dataset.prefetch(options.prefetch).with_options(settings)


def _specs(loader: Loader) -> list[tf.TensorSpec]:
    return [tf.TensorSpec(shape, tf.as_dtype(dtype)) for shape, dtype in loader.specs()]


def _alive(kept: weakref.ref[Loader]) -> Loader:
    loader = kept()
    if loader is None:
        raise RuntimeError("the stream was let go while a batch of it was being loaded")
    return loader


def _from_memory(loader: Loader, load: Callable[[tf.Tensor], tuple]) -> tf.data.Dataset:
    """The same batches epoch by epoch: those whose images are all in memory are gathered without Python.

    Args:
      loader: of the stream, with a memory cache.
      load: a step to its batch, for epochs of which an image is missing.
    """
    options, plan, specs = loader.options, loader.plan, _specs(loader)
    table_spec = tf.TensorSpec([len(loader.index), *specs[0].shape[1:]], specs[0].dtype)
    with tf.device("CPU:0"):
        labels = tf.constant(loader.index.label, specs[1].dtype)
        weights = None if loader.class_weights is None else tf.constant(loader.class_weights)
        starts = tf.constant(np.cumsum([0, *(len(rows) for rows in plan.epoch(0))]))
    kept = weakref.ref(loader)  # see make_stream

    def prepare(number: np.int64) -> tuple[np.ndarray, np.bool_, np.ndarray]:
        with _CALLS:
            loader = _alive(kept)
            memory = cast(MemoryCache, loader.cache)
            order = np.concatenate(loader.plan.epoch(int(number)))
            table = memory.table(tuple(table_spec.shape[1:]), loader.reader.dtype)
            return order, np.bool_(memory.has(order)), table  # TensorFlow does not copy the table

    @tf.autograph.experimental.do_not_convert
    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        order, complete, table = tf.numpy_function(prepare, [number], [tf.int64, tf.bool, table_spec.dtype])
        order.set_shape([None])
        complete.set_shape([])
        table.set_shape(table_spec.shape)

        @tf.autograph.experimental.do_not_convert
        def batch(position: tf.Tensor) -> tuple:
            def gathered() -> tuple:
                rows = order[starts[position] : starts[position + 1]]
                label = tf.gather(labels, rows)
                arrays = [tf.gather(table, rows), label]
                if weights is not None:
                    arrays.append(tf.gather(weights, label))
                return tuple(tf.ensure_shape(array, spec.shape) for array, spec in zip(arrays, specs, strict=True))

            return tf.cond(complete, gathered, lambda: load(number * plan.steps_per_epoch + position))

        first = tf.maximum(options.first_step - number * plan.steps_per_epoch, 0)
        steps = tf.data.Dataset.range(first, plan.steps_per_epoch)
        return steps.map(batch, num_parallel_calls=options.thread_count, deterministic=True)

    last, count = tf.int64.max // plan.steps_per_epoch, tf.data.INFINITE_CARDINALITY
    if options.epochs is not None:
        last, count = options.epochs, options.epochs * plan.steps_per_epoch - options.first_step
    dataset = tf.data.Dataset.range(options.first_step // plan.steps_per_epoch, last).flat_map(epoch)
    return dataset.apply(tf.data.experimental.assert_cardinality(count))


_NAMED_ERROR = re.compile(r"\b(?P<name>[A-Za-z]+Error): (?P<message>[^\n]+)")
_CORRUPT_PLACE = re.compile(r"(?P<path>.*): record (?P<record>\d+) at byte (?P<offset>\d+): (?P<fault>.*)")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Inside, what this package says within a `tf.data` pipeline comes out as the error it was.

    TensorFlow wraps an exception of a Python function into one of its own, with the traceback as its text.

    Raises:
      CxrError: of the class and message that was raised while loading a batch.
    """
    try:
        yield
    except tf.errors.OpError as error:
        for match in _NAMED_ERROR.finditer(str(error)):
            kind = getattr(errors, match["name"], None)
            if kind is CorruptError and (place := _CORRUPT_PLACE.fullmatch(match["message"])):
                raise CorruptError(place["path"], int(place["record"]), int(place["offset"]), place["fault"]) from error
            if kind in (InputError, DatasetError, OutputError):
                raise kind(match["message"]) from error
        raise

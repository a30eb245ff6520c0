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
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow as tf

from cxr import errors
from cxr.errors import CorruptError, DatasetError, InputError, OutputError
from tfrecords.streaming.cache import MemoryCache
from tfrecords.streaming.keras_calls import check_keras_call
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
    steps = tf.int64.max if options.epochs is None else options.epochs * loader.plan.steps_per_epoch
    if options.first_step > steps:
        raise InputError(f"first_step={options.first_step}: the stream has {steps} batches")
    source = _Source(loader)
    load = _load_function(loader, source)
    if isinstance(loader.cache, MemoryCache) and loader.buckets is None and not options.metadata:
        dataset = _from_memory(loader, source, load)
    else:
        dataset = tf.data.Dataset.range(options.first_step, steps)
        dataset = dataset.map(load, num_parallel_calls=options.thread_count, deterministic=True)
    count = tf.data.INFINITE_CARDINALITY if options.epochs is None else steps - options.first_step
    settings = tf.data.Options()
    settings.autotune.enabled = False
    settings.threading.private_threadpool_size = options.thread_count + 1
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(options.prefetch)
    return Stream(dataset.with_options(settings), loader)


class Stream(tf.data.Dataset):
    """What `make_stream` returns. It, its iterators and datasets derived from it keep the loader and its images.

    TensorFlow keeps the Python functions of a graph for good, so those here know the loader by a weak reference.
    """

    def __init__(self, dataset: tf.data.Dataset, loader: Loader):
        self._dataset, self._options_of_stream = dataset, loader.options
        super().__init__(dataset._variant_tensor)
        if tf.executing_eagerly():
            self._variant_tensor.loader = loader  # which also graphs keep that use this dataset
        else:  # made within the function of another dataset, or a tf.function, whose graph makes it anew in each call
            graph = tf.compat.v1.get_default_graph()
            graph.cxr_loaders = [*getattr(graph, "cxr_loaders", ()), loader]

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._dataset]

    @property
    def element_spec(self) -> Any:
        return self._dataset.element_spec

    def cardinality(self) -> tf.Tensor:
        """Number of batches, or `tf.data.INFINITE_CARDINALITY`.

        Raises:
          InputError: Keras asks, and the call would fail or never end.
        """
        check_keras_call(self._options_of_stream)
        return super().cardinality()


class _Source:
    """The loader behind a stream, for functions that TensorFlow keeps, and what has been read of the stream."""

    def __init__(self, loader: Loader):
        options, steps = loader.options, loader.plan.steps_per_epoch
        self._loader = weakref.ref(loader)
        self._first, self._last = options.first_step, (options.epochs or 0) * steps - 1
        self._repeats = options.training and options.epochs is not None
        self._begun = self._ended = False
        self._again = (
            f"a training stream of split '{options.split}' with epochs={options.epochs} was read to its end and is "
            "now read again, in the same order. For another order in each epoch, make one endless stream (without "
            f"epochs=) and give Keras steps_per_epoch={steps}, or make a stream with epochs= of all epochs"
        )

    def loader(self) -> Loader:
        """The loader; only while the stream is alive."""
        loader = self._loader()
        if loader is None:
            raise RuntimeError("the stream, and every dataset and iterator made from it, were deleted")
        return loader

    def note(self, step: int) -> None:
        """Takes down that a batch is read; warns where a finite training stream begins again."""
        if step == self._first:
            if self._repeats and self._begun and self._ended:
                self._repeats = False
                warnings.warn(self._again, stacklevel=2)
            self._begun = True  # not before the last step only: threads may load a short stream's last step first
        self._ended = self._ended or step == self._last


def _specs(loader: Loader) -> list[tf.TensorSpec]:
    return [tf.TensorSpec(shape, tf.as_dtype(dtype)) for shape, dtype in loader.specs()]


def _load_function(loader: Loader, source: _Source) -> Callable[[tf.Tensor], tuple]:
    """From a step, int64 [], to the element of the stream."""
    specs, structure = _specs(loader), loader.structure
    types = [spec.dtype for spec in specs]

    def load_here(step: np.int64) -> tuple[np.ndarray, ...]:
        with _CALLS:
            source.note(int(step))
            return source.loader().load(int(step))

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking for it takes long
    def load(step: tf.Tensor) -> tuple:
        arrays = tf.numpy_function(load_here, [step], types, stateful=False)
        for array, spec in zip(arrays, specs, strict=True):
            array.set_shape(spec.shape)
        return structure(arrays)

    return load


def _from_memory(loader: Loader, source: _Source, load: Callable[[tf.Tensor], tuple]) -> tf.data.Dataset:
    """The same batches epoch by epoch: those whose images are all in memory are gathered without Python.

    Args:
      loader: of the stream, with a memory cache.
      source: of the same loader.
      load: a step to its batch, for epochs of which an image is missing.
    """
    options, plan, specs = loader.options, loader.plan, _specs(loader)
    table_spec = tf.TensorSpec([len(loader.index), *specs[0].shape[1:]], specs[0].dtype)
    with tf.device("CPU:0"):
        labels = tf.constant(loader.index.truth(), specs[1].dtype)
        weights = None if loader.class_weights is None else tf.constant(loader.class_weights)
        starts = tf.constant(np.cumsum([0, *(len(rows) for rows in plan.epoch(0))]))

    def prepare(number: np.int64) -> tuple[np.ndarray, np.bool_, np.ndarray]:
        with _CALLS:
            loader = source.loader()
            memory, steps = cast(MemoryCache, loader.cache), loader.plan.steps_per_epoch
            order = np.concatenate(loader.plan.epoch(int(number)))
            complete = memory.has(order)
            if complete:  # no batch of this epoch comes through `load`
                source.note(max(loader.options.first_step, int(number) * steps))
                source.note((int(number) + 1) * steps - 1)
            table = memory.table(tuple(table_spec.shape[1:]), loader.reader.dtype)
            return order, np.bool_(complete), table  # TensorFlow does not copy the table

    @tf.autograph.experimental.do_not_convert
    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        types = [tf.int64, tf.bool, table_spec.dtype]
        order, complete, table = tf.numpy_function(prepare, [number], types, stateful=False)
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

    last = tf.int64.max // plan.steps_per_epoch if options.epochs is None else options.epochs
    return tf.data.Dataset.range(options.first_step // plan.steps_per_epoch, last).flat_map(epoch)


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

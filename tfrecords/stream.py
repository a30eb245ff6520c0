"""Batches of a data set as a `tf.data.Dataset`.

    Dataset.range(steps)         the steps of the run
      .map(load, threads)        step -> rows (`sampling`) -> read, decode (`reader`), fit (`fit`) or cache -> batch
      .prefetch(batches)

A batch is a pure function of the step, which is why shuffling, resuming, sharding and caching are plain
arithmetic on row numbers and need no buffer of records. The work of a batch is done in one call, mostly in
compiled code that releases Python's lock: TensorFlow's own reading, parsing and resizing copy a full-resolution
image five times and resize it at a tenth of the rate (`benchmarks/stream.py`).
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import json
import math
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

from tfrecords import errors
from tfrecords.buckets import assign_buckets, choose_buckets
from tfrecords.buffers import BufferPool
from tfrecords.cache import MemoryCache, PixelCache, cache_key, choose_cache, open_cache
from tfrecords.dataset import check_split, choose_rung, class_weights
from tfrecords.errors import CorruptError, DatasetError, InputError, OutputError
from tfrecords.fit import fit
from tfrecords.index import OnCorrupt, SplitIndex, build_index
from tfrecords.manifest import Manifest, read_manifest
from tfrecords.options import StreamOptions
from tfrecords.reader import RecordReader, open_shard
from tfrecords.sampling import Plan

SERVICE_TOKEN = "pyfunc_0"
"""The name under which a tf.data service worker knows `_load_step`: TensorFlow numbers the Python functions of a
process, and `cxr data-service worker` makes this its first."""
_EXIT_SECONDS = 30.0
"""How long the end of a process waits for batches that are being loaded."""
METADATA = ("patient", "path", "cause", "row")


class Loader:
    """Loads any batch of a stream, from any thread."""

    def __init__(self, root: Path, manifest: Manifest, options: StreamOptions):
        """Indexes the split, plans, and opens the cache.

        Args:
          root: the data set.
          manifest: of the data set.
          options: of the stream.

        Raises:
          CxrError: the data set cannot be read, or the options do not fit it.
        """
        self.manifest = manifest
        self.options = options
        self.rung = choose_rung(manifest, options)
        check_split(manifest, options.split)
        self.channels = options.channels or manifest.channels or 3
        self.index = _index(root, manifest.digest, self.rung, options.split, options.on_corrupt)
        if self.index.faults:
            warnings.warn(
                f"{root}: skipped {self.index.lost} of {self.index.lost + len(self.index)} records of split "
                f"'{options.split}'; first fault: {self.index.faults[0]}",
                stacklevel=2,
            )
        if len(self.index) == 0:
            raise InputError(f"split '{options.split}' of {root} has no readable example")
        self.reader = RecordReader(self.index, manifest, self.rung, self.channels)
        self.buckets = self._bucket = None
        if options.image_size is None:
            counts, step = manifest.sizes["counts"], manifest.sizes["step"]
            largest = manifest.sizes["height"]["max"], manifest.sizes["width"]["max"]
            self.buckets = choose_buckets(counts, step, options.max_buckets, manifest.rungs[self.rung].size, largest)
            self._bucket = assign_buckets(self.index.shape, self.buckets)
        self.plan = Plan(self.index, options.sampling, self._bucket)
        largest = options.size if self.buckets is None else self.buckets[-1].tolist()
        pixels = min(options.batch_size, len(self.plan.rows)) * math.prod(largest)
        self._buffers = BufferPool(pixels * self.channels * self.reader.dtype.itemsize)
        self.cache = self._open_cache(root)
        self.class_weights = class_weights(manifest, options.split) if options.sample_weights else None

    def _open_cache(self, root: Path) -> PixelCache:
        options, manifest = self.options, self.manifest
        shapes = self.index.shape[:, :2].astype(np.int64) if options.image_size is None else options.size
        pixels_each = np.broadcast_to(np.prod(shapes, axis=-1), len(self.index))
        bytes_each = pixels_each * (self.channels * self.reader.dtype.itemsize)
        self.fitted_bytes = int(bytes_each[self.plan.rows].sum())
        """What this replica's images take once they are decoded and fitted."""
        about = {
            "manifest": manifest.digest,
            "split": options.split,
            "rung": self.rung,
            "image_size": options.image_size and options.size,
            "fit": options.image_size and options.fit,
            "channels": self.channels,
            "index": self.index.digest,  # other rows where damaged records are skipped, or a label was changed
        }
        key, kind = cache_key(**about), str(options.cache)
        starts = np.concatenate([[0], np.cumsum(bytes_each)])
        arguments = (key, starts, options.cache_folder, {"data_set": str(root), **about})
        if kind == "auto":
            stored = int(self.index.length[self.plan.rows].sum())
            decoding = manifest.rungs[self.rung].encoding != "raw"
            kind = choose_cache(self.fitted_bytes, stored, decoding, options.epochs, key, options.cache_folder)
            try:
                return open_cache(kind, *arguments)
            except OutputError as error:
                warnings.warn(f"going on without a cache: {error}", stacklevel=2)
                kind = "none"
        return open_cache(kind, *arguments)

    def load(self, step: int) -> tuple[np.ndarray, ...]:
        """The arrays of one batch, in the order of `Loader.specs`.

        Args:
          step: from 0, counted over all epochs.

        Raises:
          CxrError: a record is damaged or cannot be read.
        """
        rows = self.plan.batch(step)
        if self.buckets is None or self._bucket is None:
            arrays = [self._fitted(rows)]
        else:
            arrays = list(self._padded(rows, self.buckets[self._bucket[rows[0]]]))
        labels = self.index.label[rows]
        arrays.append(labels.astype(np.float32) if self.manifest.multi_label else labels)
        if self.class_weights is not None:
            arrays.append(np.array([self.class_weights[label] for label in labels.tolist()], np.float32))
        if self.options.metadata:
            records = [self.reader.facts(row) for row in rows.tolist()]
            arrays += [np.array([getattr(one, key).encode() for one in records], object) for key in METADATA[:-1]]
            arrays.append(rows)
        return tuple(arrays)

    def _fitted(self, rows: np.ndarray) -> np.ndarray:
        """[batch, height, width, channels]: images of one size."""
        batch = self._buffers.take((len(rows), *self.options.size, self.channels), self.reader.dtype)
        if not self.cache.read_batch(rows, batch):
            for row, out in zip(rows.tolist(), batch, strict=True):
                if not self.cache.read(row, out):
                    fit(self.reader.image(row), out, self.options.fit)
                    self.cache.write(row, out)
        return batch

    def _padded(self, rows: np.ndarray, bucket: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """([batch, height, width, channels], bool [batch, height, width, 1]): images at the top left, and where."""
        shape = (len(rows), *bucket.tolist())
        batch = self._buffers.take((*shape, self.channels), self.reader.dtype)
        masks = self._buffers.take((*shape, 1), np.dtype(bool))
        for row, out, mask in zip(rows.tolist(), batch, masks, strict=True):
            pixels = self._native(row)
            height, width, _ = pixels.shape
            for target, inside in ((out, pixels), (mask, True)):
                target[:height, :width] = inside
                target[:height, width:] = 0
                target[height:] = 0
        return batch, masks

    def _native(self, row: int) -> np.ndarray:
        """[height, width, channels]: an image at its own size."""
        if self.cache.kind == "none":
            return self.reader.image(row)
        height, width, _ = self.index.shape[row].tolist()
        pixels = np.empty((height, width, self.channels), self.reader.dtype)
        if not self.cache.read(row, pixels):
            pixels = self.reader.image(row)
            self.cache.write(row, pixels)
        return pixels

    def specs(self) -> tuple[tf.TensorSpec, ...]:
        """What `load` returns."""
        count = self.options.batch_size if self.plan.uniform else None
        dtype = tf.as_dtype(self.reader.dtype)
        if self.buckets is None:
            specs = [tf.TensorSpec([count, *self.options.size, self.channels], dtype)]
        else:
            shape = self.buckets[0].tolist() if len(self.buckets) == 1 else [None, None]
            specs = [tf.TensorSpec([count, *shape, self.channels], dtype), tf.TensorSpec([count, *shape, 1], tf.bool)]
        if self.manifest.multi_label:
            specs.append(tf.TensorSpec([count, len(self.manifest.labels)], tf.float32))
        else:
            specs.append(tf.TensorSpec([count], tf.int32))
        if self.class_weights is not None:
            specs.append(tf.TensorSpec([count], tf.float32))
        if self.options.metadata:
            specs += [tf.TensorSpec([count], tf.string)] * 3 + [tf.TensorSpec([count], tf.int64)]
        return tuple(specs)

    def structure(self, arrays: list[Any]) -> tuple:
        """The arrays of `load` as the element of the data set."""
        rest = list(arrays)
        images = rest.pop(0) if self.buckets is None else {"image": rest.pop(0), "mask": rest.pop(0)}
        metadata = (dict(zip(METADATA, rest[-len(METADATA) :], strict=True)),) if self.options.metadata else ()
        return (images, *rest[: len(rest) - len(METADATA) * len(metadata)], *metadata)


@functools.lru_cache(maxsize=16)
def _index(root: Path, digest: str, rung: str, split: str, on_corrupt: OnCorrupt) -> SplitIndex:
    """The index of a split, scanned once in a process for all streams over it."""
    return build_index(root, _manifest(root, digest), rung, split, on_corrupt)


@functools.lru_cache(maxsize=16)
def _manifest(root: Path, digest: str) -> Manifest:
    """The manifest of a data set that has been opened before.

    Raises:
      DatasetError: it is another one now.
    """
    manifest = read_manifest(root)
    if manifest.digest != digest:
        raise DatasetError(f"the data set {root} was written anew since it was opened; open it again")
    return manifest


@functools.lru_cache(maxsize=16)
def _loader(recipe: bytes) -> Loader:
    """The loader of a stream: one in a process for equal options, while it is among the last ones used."""
    fields = json.loads(recipe)
    root = Path(fields["root"])
    return Loader(root, _manifest(root, fields["digest"]), StreamOptions.from_json(fields["options"]))


def _recipe(root: Path, digest: str, options: StreamOptions) -> bytes:
    """All that a loader is made from."""
    return json.dumps({"root": str(root.resolve()), "digest": digest, "options": options.to_json()}).encode()


def open_loader(root: Path, digest: str, options: StreamOptions) -> Loader:
    """The loader behind a stream, see `make_stream`."""
    _manifest.__wrapped__(root, digest)  # what is open already would not notice that the data set has changed
    return _loader(_recipe(root, digest, options))


def forget_loaders() -> None:
    """Lets go of indexes, open files and memory caches that no stream is using."""
    _loader.cache_clear()
    _index.cache_clear()
    open_shard.cache_clear()


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


def _load_step(recipe: bytes, step: np.int64) -> tuple[np.ndarray, ...]:
    """What the graph of a data service calls: all it needs is in its arguments, so that any worker can run it."""
    with _CALLS:
        return _loader(recipe).load(int(step))


def make_stream(root: Path, digest: str, options: StreamOptions) -> tf.data.Dataset:
    """The batches of a split.

    Args:
      root: the data set.
      digest: of its manifest, so that a data set written anew is opened anew.
      options: see `StreamOptions`, which also says what an element is.

    Raises:
      CxrError: the data set cannot be read, or the options do not fit it.
    """
    # where other processes load, this one only needs to know what comes
    loader = open_loader(root, digest, dataclasses.replace(options, cache="none") if options.data_service else options)
    recipe = _recipe(root, digest, options)
    specs = loader.specs()
    types = [spec.dtype for spec in specs]
    # TensorFlow keeps Python functions for good; the loader goes when the stream does, which holds `load` below
    kept = weakref.ref(loader)

    def call(step: tf.Tensor) -> list[tf.Tensor]:
        if options.data_service:
            return tf.raw_ops.PyFuncStateless(input=[recipe, step], token=SERVICE_TOKEN, Tout=types)
        return tf.numpy_function(load_here, [step], types, stateful=False)

    def load_here(step: np.int64) -> tuple[np.ndarray, ...]:
        with _CALLS:
            return _alive(kept).load(int(step))

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking for it takes long
    def load(step: tf.Tensor) -> tuple:
        arrays = list(call(step))
        for array, spec in zip(arrays, specs, strict=True):
            array.set_shape(spec.shape)
        return loader.structure(arrays)

    steps = tf.int64.max if options.epochs is None else options.epochs * loader.plan.steps_per_epoch
    if options.first_step > steps:
        raise InputError(f"first_step={options.first_step}: the stream has {steps} batches")
    dataset = tf.data.Dataset.range(options.first_step, steps)
    if options.data_service:
        service = tf.data.experimental.service
        dataset = dataset.map(load, num_parallel_calls=options.threads or tf.data.AUTOTUNE)  # on each worker
        dataset = dataset.apply(service.distribute(service.ShardingPolicy.DYNAMIC, options.data_service))
        return dataset.prefetch(options.prefetch)
    if isinstance(loader.cache, MemoryCache) and loader.buckets is None and not options.metadata:
        dataset = _from_memory(loader, load)
    else:
        dataset = dataset.map(load, num_parallel_calls=options.thread_count, deterministic=True)
    settings = tf.data.Options()
    settings.autotune.enabled = False
    settings.threading.private_threadpool_size = options.thread_count + 1
    return dataset.prefetch(options.prefetch).with_options(settings)


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
    options, plan, specs = loader.options, loader.plan, loader.specs()
    table_spec = tf.TensorSpec([len(loader.index), *specs[0].shape[1:]], specs[0].dtype)
    with tf.device("CPU:0"):
        labels = tf.constant(loader.index.label, specs[1].dtype)
        weights = tf.constant([*(loader.class_weights or {}).values()], tf.float32)
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
                if loader.class_weights is not None:
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


def register_loader() -> tf.Graph:
    """Makes `_load_step` the function that streams with a data service call in this process.

    Returns:
      a graph that must be kept as long as the process serves.

    Raises:
      RuntimeError: another Python function was registered before.
    """
    with tf.Graph().as_default() as graph:
        result = tf.numpy_function(_load_step, [b"", tf.constant(0, tf.int64)], [tf.uint8], stateful=False)
    token = result[0].op.get_attr("token").decode()
    if token != SERVICE_TOKEN:
        raise RuntimeError(f"register_loader() must come first in a process; the function became '{token}'")
    return graph


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

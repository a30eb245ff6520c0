"""Loads the batches of a split: rows to read, decode, fit or take from a cache, by the step. No TensorFlow."""

from __future__ import annotations

import functools
import math
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from cxr.errors import DatasetError, InputError, OutputError
from tfrecords.format.choices import check_split, choose_rung, class_weights
from tfrecords.format.manifest import Manifest, read_manifest
from tfrecords.images.fit import fit
from tfrecords.streaming.buckets import assign_buckets, choose_buckets
from tfrecords.streaming.buffers import BufferPool
from tfrecords.streaming.cache import PixelCache, cache_key, choose_cache, open_cache
from tfrecords.streaming.reader import RecordReader
from tfrecords.streaming.sampling import Plan
from tfrecords.streaming.split_index import OnCorrupt, SplitIndex, build_index
from tfrecords.streaming.stream_options import StreamOptions

METADATA = ("patient", "path", "cause", "row")
"""Keys of the dictionary that ends an element where it is asked for; those of `Manifest.groups` follow."""


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
        self.rung = choose_rung(manifest, options.rung, None if options.image_size is None else options.size)
        check_split(manifest, options.split)
        self.metadata = (*METADATA, *manifest.groups) if options.metadata else ()
        """Keys of the dictionary that ends an element."""
        self.channels = options.channels or manifest.channels or 3
        self.index = open_index(root, manifest.digest, self.rung, options.split, options.on_corrupt)
        if self.index.faults:
            warnings.warn(
                f"{root}: skipped {self.index.lost} of {self.index.lost + len(self.index)} records of split "
                f"'{options.split}'; first fault: {self.index.faults[0]}",
                stacklevel=2,
            )
        if len(self.index) == 0:
            raise InputError(f"split '{options.split}' of {root} has no readable example")
        self.reader = RecordReader(self.index, manifest, self.channels)
        self.buckets = self._bucket = None
        if options.image_size is None:
            counts, step = manifest.sizes["counts"], manifest.sizes["step"]
            tallest, widest = (manifest.sizes[side]["max"] for side in ("height", "width"))
            short_side = manifest.rungs[self.rung].size
            self.buckets = choose_buckets(counts, step, options.max_buckets, short_side, (tallest, widest))
            self._bucket = assign_buckets(self.index.shape, self.buckets)
        self.plan = Plan(self.index, options, self._bucket)
        largest = options.size if self.buckets is None else self.buckets[-1].tolist()
        pixels = min(options.batch_size, len(self.index)) * math.prod(largest)
        self._buffers = BufferPool(pixels * self.channels * self.reader.dtype.itemsize)
        self.cache = self._open_cache(root)
        self.class_weights = None
        """float32 [labels], where sample weights are asked for."""
        if options.sample_weights:
            self.class_weights = np.array([*class_weights(manifest, options.split).values()], np.float32)

    def _open_cache(self, root: Path) -> PixelCache:
        options, manifest = self.options, self.manifest
        shapes = self.index.shape[:, :2].astype(np.int64) if options.image_size is None else options.size
        pixels_each = np.broadcast_to(np.prod(shapes, axis=-1), len(self.index))
        bytes_each = pixels_each * (self.channels * self.reader.dtype.itemsize)
        self.fitted_bytes = int(bytes_each.sum())
        """Bytes that all images take once they are decoded and fitted."""
        if options.cache == "none":
            return PixelCache()
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
            stored = int(self.index.length.sum())
            decoding = manifest.rungs[self.rung].encoding != "raw"
            kind = choose_cache(self.fitted_bytes, stored, decoding, options.epochs, key, options.cache_folder)
            try:
                return open_cache(kind, *arguments)
            except OutputError as error:
                warnings.warn(f"continuing without a cache: {error}", stacklevel=2)
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
        arrays.append(self.index.truth(rows))
        if self.class_weights is not None:
            arrays.append(self.class_weights[self.index.label[rows]])
        arrays += [rows if key == "row" else self.index.texts(key, rows) for key in self.metadata]
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

    def specs(self) -> tuple[tuple[list[int | None], np.dtype], ...]:
        """Shape and dtype of each array that `load` returns; None for a length that differs between batches."""
        count = self.options.batch_size if self.plan.uniform else None
        shape: list[int | None] = [None, None]
        if self.buckets is None:
            shape = [*self.options.size]
        elif len(self.buckets) == 1:
            shape = self.buckets[0].tolist()
        specs = [([count, *shape, self.channels], self.reader.dtype)]
        if self.buckets is not None:
            specs.append(([count, *shape, 1], np.dtype(bool)))
        if self.manifest.multi_label:
            specs.append(([count, len(self.manifest.labels)], np.dtype(np.float32)))
        else:
            specs.append(([count], np.dtype(np.int32)))
        if self.class_weights is not None:
            specs.append(([count], np.dtype(np.float32)))
        specs += [([count], np.dtype(np.int64 if key == "row" else object)) for key in self.metadata]
        return tuple(specs)

    def structure(self, arrays: list[Any]) -> tuple:
        """The arrays of `load` as the element of the data set."""
        rest = list(arrays)
        images = rest.pop(0) if self.buckets is None else {"image": rest.pop(0), "mask": rest.pop(0)}
        if not self.metadata:
            return (images, *rest)
        count = len(self.metadata)
        return (images, *rest[:-count], dict(zip(self.metadata, rest[-count:], strict=True)))


@functools.lru_cache(maxsize=8)
def open_index(root: Path, digest: str, rung: str, split: str, on_corrupt: OnCorrupt) -> SplitIndex:
    """The index of a split, read once in a process for the streams over it."""
    return build_index(root, _manifest(root, digest), rung, split, on_corrupt)


def _manifest(root: Path, digest: str) -> Manifest:
    """The manifest of a data set that has been opened before.

    Raises:
      DatasetError: it is another one now.
    """
    manifest = read_manifest(root)
    if manifest.digest != digest:
        raise DatasetError(f"the data set {root} was written anew since it was opened; open it again")
    return manifest


_LOADERS: weakref.WeakValueDictionary[tuple[Path, str, StreamOptions], Loader] = weakref.WeakValueDictionary()


def open_loader(root: Path, digest: str, options: StreamOptions) -> Loader:
    """The loader behind a stream, see `stream.make_stream`: one for equal options, which goes with the last stream."""
    manifest = _manifest(root, digest)
    key = (root.resolve(), digest, options)
    loader = _LOADERS.get(key)
    if loader is None:
        loader = _LOADERS[key] = Loader(key[0], manifest, options)
    return loader

"""What a stream can be asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import numpy as np

from cxr.errors import InputError
from cxr.machine import usable_cores
from tfrecords.images.fit_modes import FITS, LARGEST_SIZE, Fit
from tfrecords.streaming.cache import CACHE_MODES, CacheMode, default_cache_dir
from tfrecords.streaming.sampling import Sampling, check_whole
from tfrecords.streaming.split_index import OnCorrupt


@dataclasses.dataclass(frozen=True)
class StreamOptions:
    """Options of `XrayDataset.stream`.

    Elements are `(image, label)`: `image` uint8 [batch, height, width, channels] (uint16 for a data set of 16
    bits), `label` int32 [batch], or float32 [batch, labels] of 0 and 1 for a multi-label data set. At native size
    the first part is `{"image": ..., "mask": bool [batch, height, width, 1]}`.

    Attributes:
      split: name of the split.
      image_size: side in pixels, or (height, width); None streams native sizes, in batches of similar images,
        padded with black at the bottom and right to one of at most `max_buckets` shapes.
      batch_size: images a batch; the last batch of an epoch may have fewer.
      training: shuffled anew in each epoch; otherwise stored order, or at native size stored order within
        each bucket.
      seed: of the order; at least 0.
      epochs: passes over the split; None is endless for training and 1 otherwise.
      first_step: batches to leave out at the beginning, counted over all epochs, at no cost: where a stopped
        run goes on.
      fit: how an image of another shape comes to `image_size`: `squash`, `pad` or `crop`, see `tfrecords.images.fit`.
      rung: resolution to read from; None takes the smallest that suffices.
      channels: 1 or 3; None is what the data set has, 3 where it has both.
      balanced: training draws each class equally often, repeating the rarer ones.
      shuffle_mb: megabytes of stored records within which they are shuffled, after the order of the shards.
      drop_remainder: leave out the last, smaller batch of an epoch.
      sample_weights: elements become `(image, label, weight)`, weight float32 [batch] balancing the classes.
      metadata: elements end with a dictionary of `patient`, `path` and `cause`, strings [batch], and `row`,
        int64 [batch], the place in stored order.
      cache: what keeps decoded, fitted images: `memory` (this process), `disk` (shared by processes), `none`;
        `auto` decides by size and by the memory that is available, see `tfrecords.streaming.cache.choose_cache`.
      cache_dir: folder of disk caches; None is $CXR_CACHE_DIR or the user's cache folder.
      on_corrupt: `error` stops at damage; `skip` first reads the split and checks its CRCs, and warns with a
        count of what is lost.
      threads: batches loaded at the same time; None is one more than there are usable cores, because each waits now
        and then for a file or for Python's lock.
      prefetch: finished batches to hold ready. About `threads + prefetch + 3` batches are in memory at most.
      max_buckets: number of batch shapes at native size.
    """

    split: str
    image_size: int | tuple[int, int] | None = 224
    batch_size: int = 32
    training: bool = False
    seed: int = 0
    epochs: int | None = None
    first_step: int = 0
    fit: Fit = "squash"
    rung: str | None = None
    channels: int | None = None
    balanced: bool = False
    shuffle_mb: int = 2048
    drop_remainder: bool = False
    sample_weights: bool = False
    metadata: bool = False
    cache: CacheMode = "auto"
    cache_dir: str | None = None
    on_corrupt: OnCorrupt = "error"
    threads: int | None = None
    prefetch: int = 2
    max_buckets: int = 8

    def __post_init__(self):
        for name, given, stored in (
            ("image_size", list, tuple),
            ("rung", int, str),
            ("cache_dir", Path, str),
        ):
            if isinstance(getattr(self, name), given):
                object.__setattr__(self, name, stored(getattr(self, name)))
        if self.epochs is None and not self.training:
            object.__setattr__(self, "epochs", 1)
        for field in dataclasses.fields(self):
            if isinstance(getattr(self, field.name), np.integer):
                object.__setattr__(self, field.name, int(getattr(self, field.name)))
        for side in () if self.image_size is None else self.size:
            check_whole("image_size", side, 1, LARGEST_SIZE)
        for name, least in (("first_step", 0), ("prefetch", 1), ("max_buckets", 1)):
            check_whole(name, getattr(self, name), least)
        for name in ("epochs", "threads"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 1)
        for name, allowed in (("fit", FITS), ("cache", CACHE_MODES), ("on_corrupt", get_args(OnCorrupt))):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        for name in ("training", "balanced", "drop_remainder", "sample_weights", "metadata"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}={getattr(self, name)!r}: expected True or False")
        for name in ("split", "rung", "cache_dir"):
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name == "split"):
                raise InputError(f"{name}={value!r}: expected text" + ("" if name == "split" else " or None"))
        if self.channels is not None and (type(self.channels) is not int or self.channels not in (1, 3)):
            raise InputError(f"channels={self.channels!r}: expected 1, 3 or None")
        if self.balanced and self.sample_weights:
            raise InputError("balanced=True and sample_weights=True would balance the classes twice; choose one")
        self.sampling  # noqa: B018 - checks the rest

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels; image_size must not be None."""
        if isinstance(self.image_size, tuple) and len(self.image_size) == 2:
            return self.image_size
        if isinstance(self.image_size, int):
            return (self.image_size, self.image_size)
        raise InputError(f"image_size={self.image_size!r}: expected pixels, (height, width) or None")

    @property
    def sampling(self) -> Sampling:
        """The part that decides which images make a batch."""
        return Sampling(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Sampling)})

    @property
    def cache_folder(self) -> Path:
        """Where disk caches lie."""
        return Path(self.cache_dir) if self.cache_dir else default_cache_dir()

    @property
    def thread_count(self) -> int:
        """Batches loaded at the same time."""
        return self.threads or usable_cores() + 1

    @classmethod
    def of(cls, split: str, **options: Any) -> StreamOptions:
        """Options by name; an unknown one is an InputError that lists those there are."""
        known = [field.name for field in dataclasses.fields(cls) if field.name != "split"]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise InputError(f"unknown option {', '.join(unknown)}; a stream takes {', '.join(known)}")
        return cls(split, **options)

"""What a stream can be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, get_args

from cxr.errors import InputError
from cxr.kinds import Choice, Flag, Parsed, Several, Text, Whole, directory
from cxr.machine import usable_cores
from cxr.options import Options, option, options
from tfrecords.images.fit_modes import FITS, LARGEST_SIZE, Fit
from tfrecords.streaming.cache import CACHE_MODES, CacheMode, default_cache_dir
from tfrecords.streaming.split_index import OnCorrupt

_SIDE = Whole(1, LARGEST_SIZE)


def _read_size(value: Any) -> int | tuple[int, int] | None:
    if isinstance(value, list | tuple):
        return Several(_SIDE, 2, 2).check(value)
    return None if value is None else _SIDE.check(value)


def _read_channels(value: Any) -> int:
    return 1 if Whole(1, 3).check(value) == 1 else Whole(3, 3).check(value)


def _read_rung(value: Any) -> str:
    return str(value) if type(value) is int else Text().check(value)


@options
class StreamOptions(Options):
    """Options of `XrayDataset.stream`.

    Elements are `(image, label)`: `image` uint8 [batch, height, width, channels] (uint16 for a data set of 16
    bits), `label` int32 [batch], or float32 [batch, labels] of 0 and 1 for a multi-label data set, NaN where it is not
    known whether an image has a label: a loss has to leave these out, as that of `cxr train` does. At native size the
    first part is `{"image": ..., "mask": bool [batch, height, width, 1]}`.
    """

    title: ClassVar[str] = "stream"

    split: str = option(Text(may_be_empty=True), "name of the split")
    image_size: int | tuple[int, int] | None = option(
        Parsed(_read_size, f"a side of 1 to {LARGEST_SIZE} pixels, (height, width), or None"),
        "None streams native sizes, in batches of similar images, padded with black at the bottom and right to one of "
        "at most `max_buckets` shapes",
        default=224,
    )
    batch_size: int = option(Whole(1), "images a batch; the last batch of an epoch may have fewer", default=32)
    training: bool = option(
        Flag(),
        "shuffled anew in each epoch; otherwise stored order, or at native size stored order within each bucket",
        default=False,
    )
    seed: int = option(Whole(0), "of the order", default=0)
    epochs: int | None = option(
        Whole(1), "passes over the split", default=None, unset="endless for training, 1 otherwise"
    )
    first_step: int = option(
        Whole(0), "batches to leave out at the beginning, counted over all epochs, at no cost: resumes a stopped run",
        default=0,
    )  # fmt: skip
    fit: Fit = option(
        Choice(FITS), "how an image of another shape comes to `image_size`, see `tfrecords.images.fit`",
        default="squash",
    )  # fmt: skip
    rung: str | None = option(
        Parsed(_read_rung, "the name of a rung"), "resolution to read from", default=None,
        unset="the smallest that suffices",
    )  # fmt: skip
    channels: int | None = option(
        Parsed(_read_channels, "1, 3 or None"), "of the images", default=None,
        unset="what the data set has, 3 where it has both",
    )  # fmt: skip
    balanced: bool = option(Flag(), "training draws each class equally often, repeating the rarer ones", default=False)
    shuffle_mb: int = option(
        Whole(1), "megabytes of stored records within which they are shuffled, after the order of the shards",
        default=2048,
    )  # fmt: skip
    drop_remainder: bool = option(Flag(), "leave out the last, smaller batch of an epoch", default=False)
    sample_weights: bool = option(
        Flag(), "elements become `(image, label, weight)`, weight float32 [batch] balancing the classes", default=False
    )
    metadata: bool = option(
        Flag(),
        "elements end with a dictionary of `patient`, `path` and `cause`, strings [batch], `row`, int64 [batch], the "
        "place in stored order, and what else the data set says (`Manifest.groups`), strings [batch]",
        default=False,
    )
    cache: CacheMode = option(
        Choice(CACHE_MODES),
        "what keeps decoded, fitted images: `memory` (this process), `disk` (shared by processes), `none`; `auto` "
        "decides by size and available memory, see `tfrecords.streaming.cache.choose_cache`",
        default="auto",
    )
    cache_dir: str | None = option(
        directory(), "folder of disk caches", default=None, unset="$CXR_CACHE_DIR or the user's cache folder"
    )
    on_corrupt: OnCorrupt = option(
        Choice(get_args(OnCorrupt)),
        "`error` stops at damage; `skip` first reads the split and checks its CRCs, and warns with a count of what is "
        "lost",
        default="error",
    )
    threads: int | None = option(
        Whole(1),
        "batches loaded at the same time; each waits now and then for a file or for Python's lock",
        default=None,
        unset="one more than there are usable cores",
    )
    prefetch: int = option(
        Whole(1), "finished batches to hold ready; at most about `threads + prefetch + 3` batches are in memory",
        default=2,
    )  # fmt: skip
    max_buckets: int = option(Whole(1), "number of batch shapes at native size", default=8)

    def check(self) -> None:
        if self.epochs is None and not self.training:
            object.__setattr__(self, "epochs", 1)
        if self.balanced and not self.training:
            raise InputError("balanced=True repeats and leaves out examples; it is for training=True only")
        if self.balanced and self.sample_weights:
            raise InputError("balanced=True and sample_weights=True would balance the classes twice; choose one")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels; image_size must not be None."""
        if self.image_size is None:
            raise InputError("image_size=None: expected pixels or (height, width); native images have no one size")
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    @property
    def cache_folder(self) -> Path:
        """Where disk caches lie."""
        return Path(self.cache_dir) if self.cache_dir else default_cache_dir()

    @property
    def thread_count(self) -> int:
        """Batches loaded at the same time."""
        return self.threads or usable_cores() + 1

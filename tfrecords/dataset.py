"""A finished data set, opened for reading."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr.extras import needing
from tfrecords.format.choices import check_split, choose_rung, class_weights, small_split
from tfrecords.format.manifest import Manifest, Split, read_manifest

if TYPE_CHECKING:
    import tensorflow as tf

    from tfrecords.streaming.stream_options import StreamOptions


class XrayDataset:
    """What is in a data set, and its streams.

    Attributes:
      root: its directory.
      manifest: all that it says of itself.
    """

    def __init__(self, root: str | Path):
        """Reads the manifest; shards are opened by `stream`.

        Raises:
          DatasetError: `root` is not a finished data set that this version can read.
        """
        self.root = Path(root)
        self.manifest: Manifest = read_manifest(root)

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} {split.images}" for name, split in self.manifest.splits.items())
        return f"XrayDataset({str(self.root)!r}: {splits}; labels {', '.join(self.labels)}; rungs {self.rungs})"

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names; a label is an index into them."""
        return self.manifest.labels

    @property
    def multi_label(self) -> bool:
        """Whether an image may have any number of labels."""
        return self.manifest.multi_label

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.manifest.splits)

    @property
    def rungs(self) -> tuple[str, ...]:
        """Names of the resolutions: `full`, and the short sides of smaller ones in pixels."""
        return tuple(self.manifest.rungs)

    @property
    def bit_depth(self) -> int:
        """8 or 16: streams are uint8 or uint16."""
        return self.manifest.bit_depth

    @property
    def channels(self) -> int:
        """Channels of streams unless asked otherwise: 1, or 3 where any image is colour."""
        return self.manifest.channels or 3

    @property
    def pixel_mean(self) -> float:
        """Mean of the training pixels, in [0, 1] of full scale."""
        return self.manifest.pixels["mean"]

    @property
    def pixel_std(self) -> float:
        """Standard deviation of the training pixels, in [0, 1] of full scale."""
        return self.manifest.pixels["std"]

    @property
    def sizes(self) -> dict[str, Any]:
        """Sizes of the full images: minimum, mean and maximum of height and width, and a histogram."""
        return self.manifest.sizes

    def images(self, split: str) -> int:
        """Number of images of a split."""
        return self._split(split).images

    def counts(self, split: str) -> dict[str, int]:
        """Images of a split by label name."""
        return dict(self._split(split).labels)

    def small_split(self, split: str) -> str | None:
        """What to tell people of a split that is too small to measure on, or None."""
        return small_split(split, self._split(split))

    def _split(self, split: str) -> Split:
        check_split(self.manifest, split, may_be_empty=True)
        return self.manifest.splits[split]

    def class_weights(self, split: str = "train") -> dict[int, float]:
        """Weights that make each class count the same, by label index, as `model.fit(class_weight=...)` takes them.

        Raises:
          InputError: no such split, or a multi-label data set.
        """
        return class_weights(self.manifest, split)

    def stream(self, split: str, **options: Any) -> tf.data.Dataset:
        """Batches of a split; `tfrecords.streaming.stream_options.StreamOptions` has the options and the elements.

        Training, which ends epochs after so many steps of an endless stream:

            steps = data.steps_per_epoch("train")
            model.fit(data.stream("train", training=True), steps_per_epoch=steps, epochs=10, shuffle=False)

        Raises:
          InputError: the options do not fit the data set.
          DatasetError: a shard is missing or damaged. What is found only when a batch is loaded comes as a
            TensorFlow error with this message in it; inside `tfrecords.streaming.stream.plain_errors()`, as it was.
        """
        chosen = self.options(split, **options)
        with needing("streaming", "train"):
            from tfrecords.streaming.stream import make_stream
        return make_stream(self.root, self.manifest.digest, chosen)

    def check_stream(self, split: str, **options: Any) -> None:
        """Checks what manifest and options alone tell of `stream(split, **options)`, before TensorFlow is loaded.

        Raises:
          InputError: there is no such split or rung, or an option is unknown or has a bad value.
        """
        chosen = self.options(split, **options)
        check_split(self.manifest, split)
        choose_rung(self.manifest, chosen.rung, None if chosen.image_size is None else chosen.size)

    def steps_per_epoch(self, split: str, **options: Any) -> int:
        """Batches of an epoch of `stream(split, **options)`, for the same options."""
        chosen = self.options(split, **options)
        with needing("streaming", "train"):
            from tfrecords.streaming.loader import open_loader
        return open_loader(self.root, self.manifest.digest, chosen).plan.steps_per_epoch

    def options(self, split: str, **options: Any) -> StreamOptions:
        """The options of `stream(split, **options)`, checked.

        Raises:
          InputError: one is unknown or has a bad value.
        """
        from tfrecords.streaming.stream_options import StreamOptions

        return StreamOptions.from_json({"split": split, **options})


def open_dataset(root: str | Path) -> XrayDataset:
    """Opens the data set that `cxr preprocess` wrote to `root`.

    Raises:
      DatasetError: `root` is not a finished data set that this version can read.
    """
    return XrayDataset(root)

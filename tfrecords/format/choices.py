"""What follows from a manifest alone: whether a split can be read, the rung for an image size, weights of classes."""

from __future__ import annotations

from collections.abc import Iterable

from cxr.errors import InputError
from tfrecords.format.manifest import Manifest, Split
from tfrecords.format.shards import FULL_RUNG, rung_name


def check_split(manifest: Manifest, split: str, may_be_empty: bool = False) -> None:
    """Raises InputError unless the data set has the split, with examples in it or allowed to be empty."""
    if split not in manifest.splits:
        raise InputError(f"no split '{split}'; the data set has {', '.join(manifest.splits)}")
    if manifest.splits[split].images == 0 and not may_be_empty:
        raise InputError(f"split '{split}' is empty")


FEWEST_IMAGES, FEWEST_OF_A_LABEL = 30, 10
"""Images that a split needs, in all and of each label, before a figure measured on it says much."""


def small_split(name: str, split: Split) -> str | None:
    """What to tell people of a split that is too small to measure on, or None."""
    if split.images < FEWEST_IMAGES:
        return f"split '{name}' has {split.images} images; a figure measured on fewer than {FEWEST_IMAGES} says little"
    few = [f"{count} of {label}" for label, count in split.labels.items() if count < FEWEST_OF_A_LABEL]
    if not few:
        return None
    return (
        f"split '{name}' has {', '.join(few)}; a figure measured on fewer than {FEWEST_OF_A_LABEL} images says little"
    )


def choose_rung(manifest: Manifest, rung: str | None, size: tuple[int, int] | None) -> str:
    """The rung to read: the one asked for, else the smallest that is not smaller than the images wanted.

    Args:
      manifest: of the data set.
      rung: name of the one asked for; None to choose.
      size: height and width of the images wanted, pixels; None for native size, which is read from full resolution.

    Raises:
      InputError: no such rung.
    """
    if rung is not None:
        if rung not in manifest.rungs:
            raise InputError(f"no rung '{rung}'; the data set has {', '.join(manifest.rungs)}")
        return rung
    if size is None:
        return FULL_RUNG
    sizes = [content.size for content in manifest.rungs.values() if content.size is not None]
    return rung_name(smallest_sufficient(sizes, size))


def smallest_sufficient(sizes: Iterable[int], wanted: tuple[int, int]) -> int | None:
    """The smallest short side of a rung that is not smaller than (height, width); None is full resolution."""
    return min((size for size in sizes if size >= max(wanted)), default=None)


def class_weights(manifest: Manifest, split: str) -> dict[int, float]:
    """Weights that make each class count the same: images / (classes * images of the class), by label index.

    That is scikit-learn's "balanced" (King and Zeng, "Logistic regression in rare events data", 2001). Classes
    without an image have weight 0.

    Raises:
      InputError: no such split, or a multi-label data set, whose images have no one class.
    """
    check_split(manifest, split)
    if manifest.multi_label:
        raise InputError("class weights need exactly one label an image; this data set is multi-label")
    counts = manifest.splits[split].labels
    present = sum(count > 0 for count in counts.values())
    images = sum(counts.values())
    return {
        index: images / (present * counts[label]) if counts[label] else 0.0
        for index, label in enumerate(manifest.labels)
    }

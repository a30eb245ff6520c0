"""A few common shapes for images of many sizes, so that batches at native resolution have few shapes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxr.errors import DatasetError

_ALIGNMENT = 16
_MOST_CELLS = 256
"""Cells of the histogram beyond which coarser ones are merged: the time grows with their third power."""


def choose_buckets(
    histogram: Sequence[Sequence[int]],
    step: int,
    limit: int,
    short_side: int | None,
    largest: tuple[int, int] | None = None,
) -> np.ndarray:
    """The shapes of the buckets: pairs of cells are merged, cheapest first, until few enough are left.

    The cost of a merge is the number of pixels that padding then adds. Only the manifest is needed, so all
    splits of a data set have the same buckets.

    Args:
      histogram: rows of [height // step, width // step, images], at least one (`Manifest.sizes`).
      step: pixels.
      limit: number of buckets at most, at least 1.
      short_side: of the rung: images were shrunk to it where they were larger; None for full resolution.
      largest: height and width that no full image exceeds.

    Returns:
      int64 [buckets, 2], heights and widths, smallest area first: multiples of `step`, or of a power of two times
      it where sizes are many, or `largest`, rounded up to 16 pixels.
    """
    counts: dict[tuple[int, int], int] = {}
    for row, column, count in histogram:
        low = np.array([row, column]) * step
        high = low + step - 1
        if short_side is not None:
            scale = short_side / max(short_side, int(low.min()))
            short = np.minimum(short_side, high)
            high = np.maximum(short, np.ceil(high * scale)).astype(int)
            if row != column:  # which side is the shorter one is known
                shorter = int(row > column)
                high[shorter] = short[shorter]
        height, width = (-(-high // step) * step).tolist()
        counts[height, width] = counts.get((height, width), 0) + count
    while len(counts) > _MOST_CELLS:
        step *= 2
        coarser: dict[tuple[int, int], int] = {}
        for (height, width), count in counts.items():
            cell = -(-height // step) * step, -(-width // step) * step
            coarser[cell] = coarser.get(cell, 0) + count
        counts = coarser
    shapes, images = np.array(list(counts)), np.array(list(counts.values()))
    if largest is not None:
        shapes = np.minimum(shapes, -(-np.array(largest) // _ALIGNMENT) * _ALIGNMENT)
    while len(shapes) > limit:
        areas = shapes.prod(axis=1) * images
        joined = np.maximum(shapes[:, None], shapes[None])
        cost = joined.prod(axis=2) * (images[:, None] + images[None]) - areas[:, None] - areas[None]
        cost[np.tril_indices(len(shapes))] = np.iinfo(np.int64).max
        one, other = np.unravel_index(cost.argmin(), cost.shape)
        shapes[one] = joined[one, other]
        images[one] += images[other]
        shapes, images = np.delete(shapes, other, axis=0), np.delete(images, other)
    shapes = np.unique(shapes, axis=0)
    return shapes[np.argsort(shapes.prod(axis=1), kind="stable")]


def assign_buckets(shapes: np.ndarray, buckets: np.ndarray) -> np.ndarray:
    """The smallest bucket that holds each image.

    Args:
      shapes: int [n, 2 or more], heights and widths first.
      buckets: of `choose_buckets`.

    Returns:
      int64 [n], indices into `buckets`.

    Raises:
      DatasetError: an image is larger than every bucket, so the manifest is not of these records.
    """
    holds = (buckets[None, :, 0] >= shapes[:, None, 0]) & (buckets[None, :, 1] >= shapes[:, None, 1])
    if not holds.any(axis=1).all():
        row = int(np.argmin(holds.any(axis=1)))
        raise DatasetError(
            f"an image of {shapes[row, 0]} x {shapes[row, 1]} pixels is larger than the manifest's size histogram "
            f"allows ({buckets[-1].tolist()} at most); run `cxr verify`"
        )
    return holds.argmax(axis=1)

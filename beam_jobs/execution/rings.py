"""The outer ring of each image of a shard, kept beside the shard's result for the audit; never in the data set.

Collimation, burned-in markers and text, borders and positioning show there, and next to no lung does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from cxr.files import temporary_name
from tfrecords.format.framing import hash_file
from tfrecords.images import codec

SIDE = 56
"""Side that every image is brought to, pixels: a quarter of the usual 224."""
WIDTH = 6
"""Width of the ring, in those pixels."""
INSIDE = np.zeros((SIDE, SIDE), bool)
INSIDE[WIDTH:-WIDTH, WIDTH:-WIDTH] = True
VALUES = int((~INSIDE).sum())
"""Pixels of a ring."""


def ring_of(pixels: np.ndarray) -> np.ndarray:
    """The outer ring of an image: uint8 [VALUES], row by row.

    The whole image is averaged over areas to `SIDE` x `SIDE`, whatever its shape, and its histogram is equalised, so
    that exposure counts for little; then the inside is cut away.

    Args:
      pixels: uint8 or uint16 [height, width, 1 or 3].
    """
    # halved first, measured nine times as fast in all on full-size X-rays; an odd last row or column falls away
    while min(height := pixels.shape[0], width := pixels.shape[1]) >= 4 * SIDE:
        even = pixels[: height // 2 * 2, : width // 2 * 2]
        pixels = np.atleast_3d(cv2.resize(even, (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    small = np.atleast_3d(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    grey = codec.match_channels(small, 1)
    return cv2.equalizeHist(eight_bits(grey))[~INSIDE]


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """A small picture as uint8; 16 bits from darkest to brightest, for files of 12 bits would be black."""
    if pixels.dtype == np.uint8:
        return pixels
    low, high = int(pixels.min()), int(pixels.max())
    return np.round((pixels - float(low)) * (255 / max(1, high - low))).astype(np.uint8)


def write_rings(path: Path, rings: Sequence[np.ndarray]) -> tuple[int, str]:
    """Writes the rings of a shard, whole or not at all: uint8 [images, VALUES], as `numpy.load` reads it.

    Returns:
      bytes of the file, and its BLAKE3.

    Raises:
      OSError: it cannot be written.
    """
    unfinished = temporary_name(path, ".npy")  # NumPy adds the ending where it is missing
    try:
        np.save(unfinished, np.array(rings, np.uint8).reshape(-1, VALUES))
        about = unfinished.stat().st_size, hash_file(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return about

"""The scale of images with 16 bits a sample: how many of the bits are in use.

A detector gives 10, 12 or 14 bits. PNG, TIFF and many DICOM files store them in 16 without saying so, and such an image
is nearly black. What the scale is cannot be told from one image, which may be dark of itself; it is a property of the
device, so it is decided once for a data set, from the bits that each of its images uses.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np

from cxr.errors import ImageError

FULL = 16
"""Bits of the whole scale."""

DEVICE_BITS = (8, 10, 12, 14, FULL)
"""What detectors and cameras give."""

ScaleMode = Literal["auto", "full", "data"]
"""How the scale of a data set is chosen, see `choose_scale`."""


def choose_scale(mode: ScaleMode, bits_seen: Iterable[int | None]) -> int:
    """The scale of a data set: how many bits its white has.

    Args:
      mode: `auto` takes the fewest of 8, 10, 12, 14 or 16 bits that hold every image, so that one more image of the
        same device seldom changes it; `full` takes 16 bits whatever the images hold; `data` takes exactly the bits
        that the image with the highest values uses.
      bits_seen: `DecodedImage.bits_in_use` of every image; None, of an image whose file states its scale, does not
        count.

    Returns:
      8 to 16; 16 where there is nothing to choose. At least what any image uses, except below 8.

    Raises:
      ValueError: another mode.
    """
    if mode not in get_args(ScaleMode):
        raise ValueError(f"scale {mode!r}: expected one of {', '.join(get_args(ScaleMode))}")
    seen = [bits for bits in bits_seen if bits is not None]
    if mode == "full" or not seen:
        return FULL
    most = max(8, *seen)
    return most if mode == "data" else min(bits for bits in DEVICE_BITS if bits >= most)


def count_bits(low: int, high: int) -> int:
    """Bits that hold the whole numbers `low` to `high`: unsigned, or in two's complement where `low` is negative."""
    return int(high).bit_length() if low >= 0 else 1 + max(int(high).bit_length(), int(-low - 1).bit_length())


def check_bits(bits: int, in_use: int) -> None:
    """Refuses an image that does not fit the scale of the data set.

    Raises:
      ValueError: a scale that there is not.
      ImageError: the image uses more bits than the scale has.
    """
    if not 8 <= bits <= FULL:
        raise ValueError(f"a scale of {bits} bits; expected 8 to {FULL}")
    if in_use > bits:
        raise ImageError(
            f"the image uses {in_use} bits of 16, and the scale of the data set has {bits}: it comes from another "
            "device or was exported otherwise; export it as the others, or make the data set with --scale full"
        )


def stretch(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Brings values of `bits` bits to full scale: level x 65535 / (2^bits - 1), rounded.

    Args:
      pixels: uint16, below 2^bits, any shape.
      bits: 8 to 16.

    Returns:
      uint16 of the same shape; `pixels` itself at 16 bits.
    """
    if bits == FULL:
        return pixels
    return np.rint(np.arange(2**bits) * (65535 / (2**bits - 1))).astype(np.uint16)[pixels]

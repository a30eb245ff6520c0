"""Pictures with nothing in them: constant, saturated, nearly without levels, mostly transparent, too dark.

Such a file decodes without an error, and a model gives it a probability all the same. It is refused where it is
decoded, so that a job rejects it and a prediction says what is wrong.

The thresholds are far from any X-ray. In each of 5,817 real ones (Kermany, NIH) the 98 % of the pixels in the middle
span 34 % of full scale or more, the brightest of them reach 52 %, and at most 32 % of all are black, 4 % white.
"""

from __future__ import annotations

import numpy as np

from cxr.errors import ImageError

GRID = 64
"""Rows, and columns, that are looked at at least: enough for quantiles, and a fiftieth of the time of decoding."""

LEAST_PIXELS = 16
"""Of fewer no share or quantile means anything, and such an image is not judged."""

TAIL = 0.01
"""Share of the darkest, and of the brightest, pixels that do not count: a marker, a dead row, a burnt-in letter."""

LEAST_SPAN = 16
"""Levels of 256 that the other pixels must span: what 12 bits are on a scale of 16."""

DARKEST = 32
"""Level of 256 that the brightest must reach: an eighth of full scale."""

MOST_SATURATED = 0.95
"""Share of pixels that may be black, and share that may be white: a small field in a wide collimator has less."""

MOST_TRANSPARENT = 0.9
"""Share of an image that may be transparent: lungs cut out of an X-ray leave about two thirds."""


def check(pixels: np.ndarray, bits_in_use: int | None = None) -> None:
    """Refuses a picture with nothing in it.

    Args:
      pixels: uint8 or uint16 [height, width, channels].
      bits_in_use: see `tfrecords.images.scale`, for the message.

    Raises:
      ImageError: with the reason.
    """
    fault = find_fault(pixels)
    if fault and bits_in_use is not None and 8 <= bits_in_use < 14:
        fault = (
            f"the image has 16 bits a sample and uses {bits_in_use} of them, so that it has hardly any contrast; "
            "expected values that reach the top of the scale; --scale data brings a data set to the bits in use"
        )
    if fault:
        raise ImageError(fault)


def check_alpha(alpha: np.ndarray) -> None:
    """Refuses an image of which hardly anything is opaque.

    Args:
      alpha: uint8 or uint16, of any shape; full scale is opaque.

    Raises:
      ImageError: with the share that is transparent.
    """
    transparent = 1 - float(alpha.mean()) / np.iinfo(alpha.dtype).max
    if transparent > MOST_TRANSPARENT:
        raise ImageError(
            f"{transparent:.1%} of the image is transparent; expected at most {MOST_TRANSPARENT:.0%}. Export it again "
            "without transparency"
        )


def find_fault(pixels: np.ndarray) -> str:
    """Why there is nothing in a picture, in none of its channels, or nothing said; arguments as `check`."""
    seen = grid(pixels)
    faults = [fault_of_levels(seen[..., channel]) for channel in range(seen.shape[2])]
    return f"there is nothing in the picture: {faults[0]}. Export it again, or leave it out" if all(faults) else ""


def grid(pixels: np.ndarray) -> np.ndarray:
    """Every so many pixels of an image [height, width, ...]: all of a small one, at most 127 x 127 of a large one."""
    steps = [max(1, length // GRID) for length in pixels.shape[:2]]
    return pixels[steps[0] // 2 :: steps[0], steps[1] // 2 :: steps[1]]


def fault_of_levels(values: np.ndarray) -> str:
    """As `find_fault`, for the levels of one channel: uint8 or uint16 of any shape, all of them looked at."""
    levels = values.ravel()
    counts = np.bincount(levels >> 8 if levels.dtype == np.uint16 else levels, minlength=256)
    below = counts.cumsum()
    total = int(below[-1])
    if total < LEAST_PIXELS:
        return ""
    low, high = int(below.searchsorted(TAIL * total)), int(below.searchsorted((1 - TAIL) * total))
    end, name = (0, "black") if counts[0] > counts[255] else (255, "white")
    if counts[end] > MOST_SATURATED * total:
        return f"{counts[end] / total:.1%} of its pixels are {name}; expected at most {MOST_SATURATED:.0%}"
    if high < DARKEST:
        return f"99 % of its pixels are below {(high + 1) / 256:.1%} of white; an X-ray reaches {DARKEST / 256:.1%}"
    if low == high:
        return f"98 % of its pixels have one level, {low} of 255; expected a picture"
    if high - low < LEAST_SPAN:
        return f"98 % of its pixels lie in {high - low + 1} levels of 256; expected more than {LEAST_SPAN}"
    return ""

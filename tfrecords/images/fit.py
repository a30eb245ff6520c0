"""Fits an image of any size into one of a given size: area averages where it shrinks, linear where it grows.

Each axis is resampled on its own. Where an axis shrinks, an output pixel is the mean of exactly the stretch of
input it covers, fractions at the ends included, so nothing aliases at any factor and a rung made by area
averaging agrees with the full image. Where an axis grows, it is linear interpolation between pixel centres
(half-pixel convention, edges held). Results are rounded to the nearest level.

The kernel is compiled by Numba: it takes a quarter of the time of OpenCV's INTER_AREA, with equal pixels, and a
tenth of TensorFlow's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numba
import numpy as np

from tfrecords.images.fit_modes import Fit


def fit(pixels: np.ndarray, out: np.ndarray, how: Fit = "squash") -> None:
    """Writes `pixels`, brought to the size of `out`, into `out`.

    Args:
      pixels: uint8 or uint16 [height, width, channels], in C order.
      out: the same dtype and channels, [fitted height, fitted width, channels].
      how: see `Fit`.
    """
    height, width, channels = pixels.shape
    out_height, out_width, _ = out.shape
    if pixels.shape == out.shape:
        np.copyto(out, pixels)
        return
    rows, columns = (0.0, float(height)), (0.0, float(width))
    top = left = 0
    if how == "pad":
        scale = min(out_height / height, out_width / width)
        inner_height = min(out_height, max(1, round(height * scale)))
        inner_width = min(out_width, max(1, round(width * scale)))
        top, left = (out_height - inner_height) // 2, (out_width - inner_width) // 2
        out[...] = 0
        out_height, out_width = inner_height, inner_width
    elif how == "crop":
        scale = max(out_height / height, out_width / width)
        rows, columns = _centred(height, out_height / scale), _centred(width, out_width / scale)
    first_row, row_weights = _taps(height, *rows, out_height)
    first_column, column_weights = _taps(width, *columns, out_width)
    for channel in range(channels):
        plane, target = pixels[..., channel], out[..., channel]
        if channels > 1:
            plane, target = np.ascontiguousarray(plane), np.ascontiguousarray(target)
        _resample(plane, first_row, row_weights, first_column, column_weights, target, top, left)
        if channels > 1:
            out[..., channel] = target


def _centred(size: int, part: float) -> tuple[float, float]:
    """The interval of length `part` in the middle of [0, size]."""
    part = min(part, float(size))
    return (size - part) / 2, (size + part) / 2


@functools.lru_cache(maxsize=2048)
def _taps(size: int, start: float, stop: float, out_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which input pixels an output pixel is made of.

    Args:
      size: of the input, pixels.
      start, stop: the interval of the input that is shown, within [0, size].
      out_size: pixels.

    Returns:
      int32 [out_size], the first input pixel of each, and float32 [out_size, taps], the weights of that and the
      following ones; each row sums to 1.
    """
    step = (stop - start) / out_size
    if step > 1:
        begin = start + step * np.arange(out_size)
        end = begin + step
        taps = int((np.ceil(np.minimum(end - 1e-6, size)) - np.floor(begin + 1e-6)).max())
        first = np.clip(np.floor(begin + 1e-6).astype(np.int32), 0, size - taps)
        pixel = first[:, None] + np.arange(taps)
        weights = np.minimum(pixel + 1, end[:, None]) - np.maximum(pixel, begin[:, None])
    else:
        centre = np.clip(start + step * (np.arange(out_size) + 0.5) - 0.5, 0, size - 1)
        taps = min(2, size)
        first = np.clip(np.floor(centre).astype(np.int32), 0, size - taps)
        weights = 1 - np.abs(centre[:, None] - (first[:, None] + np.arange(taps)))
    weights = np.maximum(weights, 0)
    weights /= weights.sum(axis=1, keepdims=True)
    return first, np.ascontiguousarray(weights, np.float32)


def _compile(function: Callable) -> Callable:
    """Compiles for uint8 and uint16 when this module is loaded, so that no batch waits for it.

    The code is kept for the next process, beside this file or in the user's cache folder, where one of them can
    be written.
    """
    indices, weights = numba.int32[::1], numba.float32[:, ::1]
    signatures = []
    for level in (numba.uint8, numba.uint16):
        # a view of a record's bytes can be read only, and its 16-bit levels may lie at odd addresses
        source = numba.types.Array(level, 2, "C", readonly=True, aligned=level is numba.uint8)
        signatures.append(
            numba.void(source, indices, weights, indices, weights, level[:, ::1], numba.int64, numba.int64)
        )
    try:
        return numba.njit(signatures, nogil=True, fastmath=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(signatures, nogil=True, fastmath=True)(function)


@numba.njit(nogil=True, fastmath=True, forceinline=True)
def _columns(rows, first_column, column_weights, taps, out, begin, count, left):
    """Weighted sums of columns of four rows at once, so that each weight is loaded once."""
    limit = np.float32(2.0 ** (8 * out.itemsize) - 0.5)
    last = begin + count - 1  # rows that lie behind it are written to it, and then it over them
    one, two, three = min(begin + 1, last), min(begin + 2, last), min(begin + 3, last)
    for column in range(len(first_column)):
        first = first_column[column]
        a = b = c = d = np.float32(0.5)
        for tap in range(taps):
            weight = column_weights[column, tap]
            a += weight * rows[0, first + tap]
            b += weight * rows[1, first + tap]
            c += weight * rows[2, first + tap]
            d += weight * rows[3, first + tap]
        out[three, left + column] = np.int32(min(d, limit))
        out[two, left + column] = np.int32(min(c, limit))
        out[one, left + column] = np.int32(min(b, limit))
        out[begin, left + column] = np.int32(min(a, limit))


@_compile
def _resample(source, first_row, row_weights, first_column, column_weights, out, top, left):
    """Weighted sums of rows, then of columns, four output rows at a time."""
    height, row_taps, taps = len(first_row), row_weights.shape[1], column_weights.shape[1]
    rows = np.empty((4, source.shape[1]), np.float32)
    for begin in range(0, height, 4):
        count = min(4, height - begin)
        for part in range(count):
            row = rows[part]
            first = first_row[begin + part]
            weight = row_weights[begin + part, 0]
            for x in range(row.size):
                row[x] = weight * source[first, x]
            for tap in range(1, row_taps):
                weight = row_weights[begin + part, tap]
                if weight != 0:
                    for x in range(row.size):
                        row[x] += weight * source[first + tap, x]
        if taps == 2:  # a constant number of taps is unrolled by the compiler, which saves a quarter of the time
            _columns(rows, first_column, column_weights, 2, out, top + begin, count, left)
        elif taps == 3:
            _columns(rows, first_column, column_weights, 3, out, top + begin, count, left)
        else:
            _columns(rows, first_column, column_weights, taps, out, top + begin, count, left)

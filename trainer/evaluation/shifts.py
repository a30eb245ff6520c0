"""Images as other hospitals, scanners and export tools would have made them, to see what a classifier makes of them.

A classifier that learned the files instead of the lungs does well on a split that was encoded like its training
images and fails on the same images encoded otherwise. Each shift changes what should not matter, mildly enough that a
radiologist would read the image alike; what a metric loses under the worst of them belongs beside its value.
(After Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions", ICLR 2019.)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import simplejpeg

from tfrecords.images.codec import decode_jpeg
from trainer.evaluation.metrics import ERROR_METRICS

_NOISE_SEED = 0x5816


@dataclasses.dataclass(frozen=True)
class Shift:
    """One change of an image.

    Attributes:
      description: what it does, for a report.
      change: from pixels, uint8 or uint16 [height, width, 1 or 3] in C order, and the image's row, to pixels of the
        same shape and dtype; a pure function. Levels are of full scale: 10 levels of 8 bits are 2570 of 16.
    """

    description: str
    change: Callable[[np.ndarray, int], np.ndarray]


def apply_shift(name: str, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The images of a batch under one of SHIFTS, each a function of its pixels and its row alone.

    Args:
      images: uint8 or uint16 [images, height, width, 1 or 3]; left as they are. The result has their shape and dtype.
      rows: int64 [images], from 0; places in the stored order of the split, which seed the noise.
    """
    images = np.ascontiguousarray(images)
    shifted = np.empty_like(images)
    for image, row, out in zip(images, rows, shifted, strict=True):
        out[...] = SHIFTS[name].change(image, int(row)).reshape(image.shape)  # OpenCV drops the axis of one channel
    return shifted


def suite_summary(baseline: Mapping[str, Any], shifted: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The worst that the shifts do to each metric.

    Args:
      baseline: metrics of the images as they are, as `evaluate_predictions` gives them.
      shifted: the same by shift.

    Returns:
      By metric: `shift`, its name; `value` under it; and `drop`, by how much it is worse than the baseline: baseline -
      value, or value - baseline for a metric that is better the lower it is. Negative where every shift improves it.
      A metric that is undefined for the baseline or under every shift is left out.
    """
    worst: dict[str, dict[str, Any]] = {}
    for metric, before in baseline.items():
        values = {shift: found[metric]["value"] for shift, found in shifted.items()}
        values = {shift: value for shift, value in values.items() if value is not None}
        if before["value"] is not None and values:
            sign = -1 if metric in ERROR_METRICS else 1
            shift = min(values, key=lambda name: sign * values[name])
            worst[metric] = {"shift": shift, "value": values[shift], "drop": sign * (before["value"] - values[shift])}
    return worst


def _jpeg(pixels: np.ndarray, row: int, quality: int) -> np.ndarray:
    if pixels.dtype == np.uint16:  # a JPEG has 8 bits: as an export would, map the image's own range to them, and back
        low, high = int(pixels.min()), int(pixels.max())
        step = max(1, high - low) / 255
        levels = np.rint((pixels - low) / step).astype(np.uint8)
        return np.rint(_jpeg(levels, row, quality) * step + low).astype(np.uint16)
    channels = pixels.shape[2]
    colours, sampling = ("GRAY", "Gray") if channels == 1 else ("RGB", "420")
    return decode_jpeg(simplejpeg.encode_jpeg(pixels, quality, colours, sampling), channels)


def _blur(pixels: np.ndarray, row: int) -> np.ndarray:
    return cv2.GaussianBlur(pixels, (0, 0), min(pixels.shape[:2]) / 150)


def _rescale(pixels: np.ndarray, row: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    half = cv2.resize(pixels, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    return cv2.resize(half, (width, height), interpolation=cv2.INTER_LINEAR)


def _add_noise(pixels: np.ndarray, row: int) -> np.ndarray:
    height, width, _ = pixels.shape
    scale = np.iinfo(pixels.dtype).max
    noise = np.random.default_rng([_NOISE_SEED, row]).standard_normal((height, width, 1), np.float32)
    noise *= 10 / 255 * scale
    noisy = pixels + noise  # the same for all channels: grey stays grey
    return np.rint(noisy, out=noisy).clip(0, scale, out=noisy).astype(pixels.dtype)


def _flatten(pixels: np.ndarray, row: int) -> np.ndarray:
    mean = float(pixels.mean())
    levels = np.arange(np.iinfo(pixels.dtype).max + 1)
    return cv2.LUT(pixels, np.rint(mean + 0.6 * (levels - mean)).astype(pixels.dtype))


def _tone(pixels: np.ndarray, row: int, factor: float = 1.0, exponent: float = 1.0) -> np.ndarray:
    return cv2.LUT(pixels, _tone_table(pixels.dtype, factor, exponent))


@functools.lru_cache
def _tone_table(dtype: np.dtype, factor: float, exponent: float) -> np.ndarray:
    """factor * level ** exponent for each level of full scale 1, cut off at full scale."""
    scale = np.iinfo(dtype).max
    levels = np.arange(scale + 1) / scale
    return np.rint(np.minimum(factor * levels**exponent, 1) * scale).astype(dtype)


SHIFTS: dict[str, Shift] = {
    "jpeg-95": Shift("compressed again as JPEG of quality 95", functools.partial(_jpeg, quality=95)),
    "jpeg-60": Shift("compressed again as JPEG of quality 60", functools.partial(_jpeg, quality=60)),
    "jpeg-30": Shift("compressed again as JPEG of quality 30", functools.partial(_jpeg, quality=30)),
    "blurred": Shift("Gaussian blur, sigma 1/150 of the short side", _blur),
    "rescaled": Shift("brought to half the size and back", _rescale),
    "darkened": Shift("all levels times 0.7", functools.partial(_tone, factor=0.7)),
    "brightened": Shift("all levels times 1.3, cut off at white", functools.partial(_tone, factor=1.3)),
    "gamma-0.7": Shift("lighter mid tones: gamma 0.7", functools.partial(_tone, exponent=0.7)),
    "gamma-1.4": Shift("darker mid tones: gamma 1.4", functools.partial(_tone, exponent=1.4)),
    "low-contrast": Shift("contrast around the image's mean times 0.6", _flatten),
    "noise": Shift("Gaussian noise of 10 levels of 255", _add_noise),
}
"""Every shift by name, in the order of a report."""

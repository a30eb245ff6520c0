"""JPEG compression of an image, without the file: what a second encoder does to the pixels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from trainer.augmentation.layer import RandomImageLayer

BLOCK = 8

LUMA = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
], "float32")  # fmt: skip
"""Quantisation steps of luminance at quality 50: ITU-T T.81, table K.1."""


def _cosines() -> np.ndarray:
    """The two-dimensional DCT-II of a block as one orthonormal matrix, float32 `[64 frequencies, 64 pixels]`."""
    frequency, position = np.mgrid[:BLOCK, :BLOCK]
    line = np.sqrt(2 / BLOCK) * np.cos((2 * position + 1) * frequency * np.pi / (2 * BLOCK))
    line[0] /= np.sqrt(2)
    return np.kron(line, line).astype("float32")


COSINES = _cosines()


@keras.saving.register_keras_serializable("cxr")
class RandomRecompression(RandomImageLayer):
    """Compresses as JPEG does, at a quality drawn for each image: block edges, ringing, lost fine detail.

    Quality is that of libjpeg, with its standard luminance table. Images of 3 channels have each compressed like a
    grey image, so that equal channels stay equal. Pixels are rounded to 256 levels, as an encoder gets them.

    Args:
      quality: the lowest and the highest, whole numbers between 1 and 100.
    """

    def __init__(self, quality: tuple[int, int] = (30, 100), **options: Any):
        super().__init__(**options)
        self.quality = quality

    def change(self, images: Any, sizes: Any) -> Any:
        low, high = self.quality
        return recompress(images, ops.floor(self.per_image(images, low, high + 1)[:, 0, 0, 0]))


def recompress(images: Any, quality: Any) -> Any:
    """Images as they are after JPEG compression; sides that are no multiple of 8 are padded by their last pixels.

    Args:
      images: float32 `[count, height, width, channels]` in [0, 1].
      quality: of libjpeg, whole numbers from 1 to 100, float32 `[count]`.

    Returns:
      The same shape, in [0, 1], multiples of 1/255.
    """
    height, width, channels = ops.shape(images)[1:]
    padded = _pad(_pad(images, 1), 2)
    down, across = (side // BLOCK for side in ops.shape(padded)[1:3])
    blocks = ops.reshape(padded, (-1, down, BLOCK, across, BLOCK, channels))
    blocks = ops.reshape(ops.transpose(blocks, (0, 1, 3, 5, 2, 4)), (-1, down * across * channels, BLOCK * BLOCK))

    steps = quantisation_steps(quality)
    levels = ops.round(blocks * 255) - 128
    coefficients = ops.round(ops.matmul(levels, COSINES.T) / steps) * steps
    levels = ops.round(ops.clip(ops.matmul(coefficients, COSINES) + 128, 0, 255))

    blocks = ops.reshape(levels / 255, (-1, down, across, channels, BLOCK, BLOCK))
    pixels = ops.reshape(ops.transpose(blocks, (0, 1, 4, 2, 5, 3)), (-1, *ops.shape(padded)[1:]))
    return pixels[:, :height, :width]


def quantisation_steps(quality: Any) -> Any:
    """Steps of the 64 frequencies by libjpeg's rule (jcparam.c), float32 `[count, 1, 64]`."""
    percent = ops.where(quality < 50, ops.floor(5000 / quality), 200 - 2 * quality)[:, None, None]
    return ops.clip(ops.floor((LUMA.reshape(1, 1, -1) * percent + 50) / 100), 1, 255)


def _pad(images: Any, axis: int) -> Any:
    """Repeats the last pixels of an axis until it is a multiple of a block, as a side that varies always is."""
    missing = -(images.shape[axis] or 0) % BLOCK
    if not missing:
        return images
    last = images[:, -1:] if axis == 1 else images[:, :, -1:]
    return ops.concatenate([images, *[last] * missing], axis=axis)

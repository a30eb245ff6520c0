"""How much detail is left: blur, and resizing down and up again.

Both are linear and act on rows and columns alike, so each is one matrix for the rows and one for the columns of
each image: `rows @ image @ columns'`. Matrix products are what every backend does fastest, with any kernel width
and a continuous strength.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from trainer.augmentation.layer import RandomImageLayer, sides

REFERENCE_SIDE = 224
SHARPEST = 1e-3
"""A blur of this many pixels leaves an image as it is."""


@keras.saving.register_keras_serializable("cxr")
class RandomBlur(RandomImageLayer):
    """Gaussian blur. At the border the weights are spread over the pixels that are there.

    Args:
      max_sigma: the standard deviation is drawn between 0 and this, in pixels of an image whose short side is
        224; it grows in proportion with larger images. 0 to 10.
    """

    def __init__(self, max_sigma: float = 2.0, **options: Any):
        super().__init__(**options)
        self.max_sigma = max_sigma

    def change(self, images: Any, sizes: Any) -> Any:
        height, width = sides(images, sizes)
        side = min(height, width) if sizes is None else ops.minimum(height, width)
        sigma = self.per_image(images, 0, self.max_sigma * side / REFERENCE_SIDE)[:, :, :, 0]
        return blur(images, sigma)


@keras.saving.register_keras_serializable("cxr")
class RandomRescale(RandomImageLayer):
    """Averages over areas down to a lower resolution, then interpolates linearly back to the size it had.

    Args:
      max_factor: the sides are divided by a factor drawn between 1 and this, and rounded to whole pixels; 1 to 8.
    """

    def __init__(self, max_factor: float = 2.0, **options: Any):
        super().__init__(**options)
        self.max_factor = max_factor

    def change(self, images: Any, sizes: Any) -> Any:
        return rescale(images, self.per_image(images, 1, self.max_factor)[:, :, :, 0])


def blur(images: Any, sigma: Any) -> Any:
    """Gaussian blur of float32 `[count, height, width, channels]` by sigma, pixels, `[count, 1, 1]`."""
    scale = -0.5 / ops.square(ops.maximum(sigma, SHARPEST))

    def gaussian(side: int) -> Any:
        positions = ops.arange(side, dtype="float32")
        weights = ops.exp(ops.square(positions[:, None] - positions) * scale)
        return weights / ops.sum(weights, axis=2, keepdims=True)

    return _apply(images, gaussian)


def rescale(images: Any, factor: Any) -> Any:
    """Area-averages the sides down by a factor, `[count, 1, 1]`, and interpolates linearly back up."""

    def down_and_up(side: int) -> Any:
        length = side if isinstance(side, int) else ops.cast(side, "float32")
        small = ops.maximum(ops.round(length / factor), 1)
        step = length / small  # pixels in a cell
        positions = ops.arange(side, dtype="float32")
        # Row k averages the pixels of cell k. Rows from `small` on have no pixels; they are not looked at.
        start = positions[:, None] * step
        overlap = ops.minimum(start + step, positions + 1) - ops.maximum(start, positions)
        down = ops.maximum(overlap, 0) / step
        centre = ops.clip((positions[:, None] + 0.5) / step - 0.5, 0, small - 1)
        up = ops.maximum(1 - ops.abs(centre - positions), 0)
        return ops.matmul(up, down)

    return _apply(images, down_and_up)


def _apply(images: Any, operator: Callable[[int], Any]) -> Any:
    """The operator, `[count, side, side]` for a side, on rows and on columns; rounding errors are clipped."""
    height, width, channels = ops.shape(images)[1:]
    rows = operator(height)
    columns = rows if isinstance(width, int) and width == height else operator(width)
    images = ops.matmul(rows, ops.reshape(images, (-1, height, width * channels)))
    if channels == 1:
        images = ops.matmul(images, ops.transpose(columns, (0, 2, 1)))
    else:
        images = ops.matmul(columns[:, None], ops.reshape(images, (-1, height, width, channels)))
    return ops.clip(ops.reshape(images, (-1, height, width, channels)), 0, 1)

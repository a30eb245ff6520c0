"""How bright each pixel is: exposure and display curve, sensor noise, and parts that are covered."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from trainer.augmentation.layer import RandomImageLayer, sides
from trainer.models.pixels import image_mean

DARKEST = 1e-6
"""Where the logarithm of a pixel is cut off."""


@keras.saving.register_keras_serializable("cxr")
class RandomTone(RandomImageLayer):
    """Gamma, then contrast about the image's mean, then brightness: `clip(b * (m + c * (x ** g - m)))`.

    m is the mean of `x ** g`. One layer, because each pass over the pixels costs time.

    The logarithms of the three are drawn uniformly in a cube, and corners are pulled onto the ball inside it. Each
    reaches its whole range, but not all at once: together the extremes would leave an image all white.

    Args:
      brightness: b is between 1 / (1 + brightness) and 1 + brightness; 0 to 4.
      contrast: c likewise.
      gamma: g likewise.
    """

    def __init__(self, brightness: float = 0.0, contrast: float = 0.0, gamma: float = 0.0, **options: Any):
        super().__init__(**options)
        self.brightness, self.contrast, self.gamma = brightness, contrast, gamma

    def change(self, images: Any, sizes: Any) -> Any:
        extents = np.log1p([self.brightness, self.contrast, self.gamma]).astype("float32")
        draws = self.uniform(ops.shape(images)[0], 3, low=-1)
        used = draws * (extents > 0).astype("float32")
        distance = ops.sqrt(ops.sum(ops.square(used), axis=1, keepdims=True))
        factors = ops.exp(used / ops.maximum(distance, 1) * extents)[:, :, None, None, None]
        brightness, contrast, gamma = factors[:, 0], factors[:, 1], factors[:, 2]
        if self.gamma:  # not power(), which is several times slower on CPUs
            images = ops.exp(ops.log(ops.maximum(images, DARKEST)) * gamma)
        mean = image_mean(images, sizes) if self.contrast else 0.0
        return ops.clip(images * (brightness * contrast) + brightness * (1 - contrast) * mean, 0, 1)


@keras.saving.register_keras_serializable("cxr")
class RandomNoise(RandomImageLayer):
    """Adds Gaussian noise, independent from pixel to pixel and the same in all channels, then clips.

    Args:
      max_sigma: the standard deviation is drawn between 0 and this, of full scale (10 of 255 levels are 0.039); 0 to 1.
    """

    def __init__(self, max_sigma: float = 0.04, **options: Any):
        super().__init__(**options)
        self.max_sigma = max_sigma

    def change(self, images: Any, sizes: Any) -> Any:
        sigma = self.per_image(images, 0, self.max_sigma)
        return ops.clip(images + sigma * self._normal(images), 0, 1)

    def _normal(self, images: Any) -> Any:
        """Normal draws `[count, height, width, 1]` by Box and Muller (1958): half the time of keras.random.normal."""
        count, height, width, _ = ops.shape(images)
        half = -(-height * width // 2)
        radius, angle = ops.unstack(self.uniform(2, count, half))
        radius, angle = ops.sqrt(-2 * ops.log(1 - radius)), 2 * math.pi * angle
        draws = ops.concatenate([radius * ops.cos(angle), radius * ops.sin(angle)], axis=1)
        return ops.reshape(draws[:, : height * width], (-1, height, width, 1))


@keras.saving.register_keras_serializable("cxr")
class RandomErasing(RandomImageLayer):
    """Covers one rectangle with one random grey (Zhong et al., Random Erasing Data Augmentation, AAAI 2020).

    Its area is uniform between `min_area` and `max_area`, its ratio of height to width log-uniform between 0.3
    and 3.3, its place uniform among those wholly inside the image. Sides longer than the image are cut, so that
    the area can be smaller than drawn where the image is narrow.

    Args:
      max_area: fraction of the image, above 0 up to 1.
      min_area: fraction of the image, up to max_area.
    """

    ASPECT = 3.3
    MIN_AREA = 0.02

    def __init__(self, max_area: float = 0.2, min_area: float = MIN_AREA, **options: Any):
        super().__init__(**options)
        self.max_area, self.min_area = max_area, min_area

    def change(self, images: Any, sizes: Any) -> Any:
        height, width = sides(images, sizes)
        root = ops.sqrt(self.per_image(images, self.min_area, self.max_area) * (height * width))
        stretch = ops.exp(self.per_image(images, -math.log(self.ASPECT) / 2, math.log(self.ASPECT) / 2))
        rows = self._span(images, 1, height, root * stretch)[:, :, None, None]
        columns = self._span(images, 2, width, root / stretch)[:, None, :, None]
        return ops.where(ops.logical_and(rows, columns), self.per_image(images, 0, 1), images)

    def _span(self, images: Any, axis: int, side: Any, length: Any) -> Any:
        """Which pixels of an axis lie in a stretch of `length` of the first `side`, bool `[count, pixels]`."""
        length = ops.minimum(ops.round(length), side)[:, :, 0, 0]
        side = side if isinstance(side, int) else side[:, :, 0, 0]
        start = ops.floor(self.per_image(images, 0, 1)[:, :, 0, 0] * (side - length + 1))
        positions = ops.arange(ops.shape(images)[axis], dtype="float32")[None]
        return ops.logical_and(positions >= start, positions < start + length)

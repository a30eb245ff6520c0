"""From stored pixels to what a network sees: scaling, histogram equalisation, normalisation.

Layers of the model, so that whoever calls it, in training or from an exported file, hands over raw pixels.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import keras
from keras import ops

from cxr.errors import InputError
from trainer.models.native import inside

LEVELS = 256
LEAST_DEVIATION = 1e-3
"""What a standard deviation counts at least, of full scale: a quarter of an 8-bit level."""

How = Literal["dataset", "image", "none"]


class PixelLayer(keras.layers.Layer):
    """In and out: `[batch, height, width, channels]`; out is float32, computed so under every dtype policy.

    Those that look at a whole image take `sizes` besides, where images do not fill the batch: int32 `[batch, 2]`, the
    height and width of each. What they make of the pixels outside of an image means nothing.
    """

    def __init__(self, **options: Any):
        super().__init__(**{"dtype": "float32"} | options)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return tuple(input_shape)


def image_mean(images: Any, sizes: Any = None) -> Any:
    """The mean of each image, float32 `[batch, 1, 1, 1]`; of the pixels inside `sizes`, where those are given."""
    if sizes is None:
        return ops.mean(images, axis=(1, 2, 3), keepdims=True)
    weights = ops.cast(inside(images, sizes), images.dtype)[..., None]
    count = ops.sum(weights, axis=(1, 2, 3), keepdims=True) * images.shape[-1]
    return ops.sum(images * weights, axis=(1, 2, 3), keepdims=True) / ops.maximum(count, 1)


@keras.saving.register_keras_serializable("cxr")
class Scale(PixelLayer):
    """Raw pixels, uint8 or uint16, to float32 in [0, 1]; full scale is 255 or 65535.

    Raises InputError for a bit depth other than 8 or 16.
    """

    def __init__(self, bit_depth: int = 8, **options: Any):
        super().__init__(**options)
        if bit_depth not in (8, 16):
            raise InputError(f"bit_depth must be 8 or 16; received {bit_depth!r}")
        self.bit_depth = bit_depth

    def call(self, pixels: Any) -> Any:
        return ops.cast(pixels, "float32") / (2**self.bit_depth - 1)


@keras.saving.register_keras_serializable("cxr")
class Equalize(PixelLayer):
    """Histogram equalisation of each image: float32 in [0, 1] to float32 in [0, 1].

    Each pixel becomes the share of the image's pixels that are not brighter, over 256 levels, stretched so that the
    darkest is 0 and the brightest 1; the rule of cv2.equalizeHist. What changes all pixels of an image by one
    increasing curve, such as gamma or exposure, is thereby undone, up to the rounding to 256 levels.

    The channels of an image share one histogram and one curve: three equal channels stay equal, and get what one
    would get. An image of a single level stays as it is, rounded to a level.

    Keras's own Equalization does nothing inside a functional model (3.15).
    """

    def call(self, images: Any, sizes: Any = None) -> Any:
        count, height, width, channels = ops.shape(images)
        pixels = height * width * channels
        levels = ops.cast(ops.round(ops.clip(images, 0, 1) * (LEVELS - 1)), "int32")
        bins = ops.reshape(levels, (-1, pixels)) + LEVELS * ops.arange(count, dtype="int32")[:, None]
        bins = ops.reshape(bins, (-1,))
        ones = ops.ones_like(bins)
        if sizes is not None:
            ones = ops.reshape(ops.repeat(ops.cast(inside(images, sizes), "int32")[..., None], channels, -1), (-1,))
        histogram = ops.segment_sum(ones, bins, num_segments=count * LEVELS)
        cumulative = ops.cumsum(ops.reshape(histogram, (-1, LEVELS)), axis=1)
        pixels = cumulative[:, -1:] if sizes is not None else pixels
        # Of each image: the pixels of its darkest level, the first that has any
        darkest = ops.min(ops.where(cumulative > 0, cumulative, pixels), axis=1, keepdims=True)
        above = ops.cast(ops.maximum(cumulative - darkest, 0), "float32")
        brighter = ops.cast(pixels - darkest, "float32")
        unchanged = ops.arange(LEVELS, dtype="float32") / (LEVELS - 1)
        curve = ops.where(brighter > 0, above / ops.maximum(brighter, 1), unchanged)
        return ops.reshape(ops.take(ops.reshape(curve, (-1,)), bins), (-1, height, width, channels))


@keras.saving.register_keras_serializable("cxr")
class Normalize(PixelLayer):
    """Pixels, float32 in [0, 1], to mean 0 and standard deviation 1.

    Args:
      how: "dataset" by the mean and standard deviation given, which the manifest has; "image" by each image's own,
        over all its pixels and channels; "none" not at all.
      mean: of the training pixels, of full scale; read for "dataset" only.
      std: their standard deviation, of full scale, above 0; read for "dataset" only.

    Raises:
      InputError: no such way, or std is not above 0.
    """

    def __init__(self, how: How = "dataset", mean: float = 0.0, std: float = 1.0, **options: Any):
        super().__init__(**options)
        if how not in get_args(How):
            raise InputError(f"no normalisation {how!r}; expected {', '.join(get_args(How))}")
        if not std > 0:
            raise InputError(f"std must be above 0; received {std!r}")
        self.how, self.mean, self.std = how, float(mean), float(std)

    def call(self, images: Any, sizes: Any = None) -> Any:
        if self.how == "none":
            return images
        if self.how == "dataset":
            return (images - self.mean) / self.std
        centred = images - image_mean(images, sizes)
        deviation = ops.sqrt(image_mean(ops.square(centred), sizes))
        return centred / ops.maximum(deviation, LEAST_DEVIATION)

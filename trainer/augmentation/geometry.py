"""Where things are in the image: shift, rotation and zoom in one resampling; mirror images."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from trainer.augmentation.layer import RandomImageLayer, sides


@keras.saving.register_keras_serializable("cxr")
class RandomAffine(RandomImageLayer):
    """Shifts, rotates about the centre and zooms, by one bilinear resampling.

    Beyond the border the nearest pixel is repeated. Black would add sharp edges that no test image has, and a mass
    of black pixels that distorts the histogram and the mean by which later layers equalise and normalise.

    Args:
      shift: the greatest shift along each axis, as a fraction of that side, 0 to 0.5.
      rotation_degrees: the greatest angle in either direction, 0 to 180.
      zoom: the scale is between 1 / (1 + zoom) and 1 + zoom, 0 to 1; the same along both axes.
    """

    def __init__(self, shift: float = 0.0, rotation_degrees: float = 0.0, zoom: float = 0.0, **options: Any):
        super().__init__(**options)
        self.shift = shift
        self.rotation_degrees = rotation_degrees
        self.zoom = zoom

    def change(self, images: Any, sizes: Any) -> Any:
        height, width = sides(images, sizes)
        limit = math.radians(self.rotation_degrees)
        angle = self.per_image(images, -limit, limit)[:, 0, 0, 0]
        scale = self.factors(images, self.zoom)[:, 0, 0, 0]
        right = self.per_image(images, -self.shift * width, self.shift * width)[:, 0, 0, 0]
        down = self.per_image(images, -self.shift * height, self.shift * height)[:, 0, 0, 0]
        if sizes is not None:
            height, width = height[:, 0, 0, 0], width[:, 0, 0, 0]
        return resample(images, inverse_affine((height, width), angle, scale, right, down))


@keras.saving.register_keras_serializable("cxr")
class RandomFlip(RandomImageLayer):
    """Mirrors images left to right.

    Off in every named strength: the heart lies on the left, and a mirrored chest is a rare finding of its own.
    """

    def __init__(self, *, probability: float = 0.5, **options: Any):
        super().__init__(probability=probability, **options)

    def change(self, images: Any, sizes: Any) -> Any:
        if sizes is None:
            return ops.flip(images, axis=2)
        last = ops.cast(sizes[:, 1] - 1, "float32")
        zero, one = ops.zeros_like(last), ops.ones_like(last)
        return resample(images, ops.stack([-one, zero, last, zero, one, zero], axis=1))  # x = last - x'


def inverse_affine(size: tuple[Any, Any], angle: Any, scale: Any, right: Any, down: Any) -> Any:
    """Where each pixel of the output comes from, float32 `[count, 6]`: x = a x' + b y' + c, y = d x' + e y' + f.

    Args:
      size: height and width, pixels, one for all or `[count]`.
      angle: counter-clockwise as seen on screen, radians, `[count]`.
      scale: above 1 enlarges, `[count]`.
      right, down: the shift that follows, pixels, `[count]`.
    """
    height, width = size
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    cosine, sine = ops.cos(angle) / scale, ops.sin(angle) / scale
    from_x, from_y = middle_x + right, middle_y + down
    to_x, to_y = middle_x - cosine * from_x + sine * from_y, middle_y - sine * from_x - cosine * from_y
    return ops.stack([cosine, -sine, to_x, sine, cosine, to_y], axis=1)


def resample(images: Any, transforms: Any) -> Any:
    """Bilinear interpolation at transformed positions; those beyond the border are moved onto it.

    Images are float32 `[count, height, width, channels]`, at least 2 pixels high and wide; transforms as of
    `inverse_affine`.
    """
    if keras.backend.backend() == "tensorflow" and not _traced_for_xla():
        rest = ops.zeros_like(transforms[:, :2])
        transforms = ops.concatenate([transforms, rest], axis=1)
        return ops.image.affine_transform(
            images, transforms, fill_mode="nearest", interpolation="bilinear", data_format="channels_last"
        )
    return resample_by_gather(images, transforms)


def resample_by_gather(images: Any, transforms: Any) -> Any:
    """The same by four look-ups: what XLA compiles well, where Keras's own needs a TensorFlow kernel or is slow."""
    count, height, width, channels = ops.shape(images)
    across = ops.arange(width, dtype="float32")[None, None, :]
    along = ops.arange(height, dtype="float32")[None, :, None]
    a, b, c, d, e, f = (transforms[:, index, None, None] for index in range(6))
    x = ops.clip(a * across + b * along + c, 0, width - 1)
    y = ops.clip(d * across + e * along + f, 0, height - 1)
    left, top = ops.clip(ops.floor(x), 0, width - 2), ops.clip(ops.floor(y), 0, height - 2)
    x, y = (x - left)[..., None], (y - top)[..., None]
    first = ops.arange(count, dtype="int32")[:, None, None] * (height * width)
    corner = first + ops.cast(top, "int32") * width + ops.cast(left, "int32")
    pixels = ops.reshape(images, (-1, channels))

    def at(offset: int) -> Any:
        return ops.take(pixels, corner + offset, axis=0)

    upper = (1 - x) * at(0) + x * at(1)
    lower = (1 - x) * at(width) + x * at(width + 1)
    return (1 - y) * upper + y * lower


def _traced_for_xla() -> bool:
    """Whether TensorFlow is tracing what XLA will compile, for which its resampling kernel does not exist."""
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util  # no public name tells it

    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())

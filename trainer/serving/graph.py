"""Image files to a model's pixels inside a TensorFlow graph, where neither OpenCV nor Numba can go.

The same steps as `trainer.serving.image_files`, with the same results up to the rounding of levels: libjpeg's
accurate DCT and full chroma upsampling, PNG in its own depth, OpenCV's luma, and area averages as in
`tfrecords.images.fit`, here as a matrix of weights for each axis.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrecords.images.fit_modes import Fit

_PNG = b"\x89PNG\r\n\x1a\n"
_LUMA, _LUMA_BITS = (9798, 19235, 3735), 15  # as OpenCV computes it


def decode_and_fit(file: tf.Tensor, size: tuple[int, int] | None, channels: int, bit_depth: int, how: Fit) -> tf.Tensor:
    """Pixels of an encoded JPEG or PNG file, a string scalar, fitted: uint8 or uint16 [height, width, channels].

    EXIF orientation is not looked at. A damaged file is an `InvalidArgumentError` of TensorFlow. The size, (height,
    width), the channels, 1 or 3, and the bit depth, 8 or 16, are those wanted; a size of None leaves the image as it
    is.
    """
    with tf.device("CPU:0"):  # a GPU may multiply matrices with 10 bits of mantissa
        pixels = _to_channels(_to_depth(_decode(file), bit_depth), channels)
        if size is not None:
            fitted = _fit(tf.cast(pixels, tf.float32), size, how)
            pixels = tf.clip_by_value(tf.floor(fitted + 0.5), 0, 2**bit_depth - 1)
        levels = tf.cast(pixels, tf.uint16 if bit_depth == 16 else tf.uint8)
        return tf.ensure_shape(levels, [*(size or (None, None)), channels])


def _decode(file: tf.Tensor) -> tf.Tensor:
    """int64 [height, width, 1 or 3] of 16 bits; alpha is composited over black."""

    def png() -> tf.Tensor:
        return tf.cast(tf.io.decode_png(file, 0, tf.uint16), tf.int64)

    def jpeg() -> tf.Tensor:
        pixels = tf.io.decode_jpeg(file, 0, fancy_upscaling=True, dct_method="INTEGER_ACCURATE")
        return tf.cast(pixels, tf.int64) * 257

    pixels = tf.cond(tf.equal(tf.strings.substr(file, 0, len(_PNG)), _PNG), png, jpeg)
    full = 65535
    return tf.cond(
        tf.shape(pixels)[2] % 2 == 0,
        lambda: (pixels[..., :-1] * pixels[..., -1:] + full // 2) // full,
        lambda: pixels,
    )


def _to_depth(pixels: tf.Tensor, bit_depth: int) -> tf.Tensor:
    return pixels if bit_depth == 16 else (pixels + 128) // 257


def _to_channels(pixels: tf.Tensor, channels: int) -> tf.Tensor:
    def luma() -> tf.Tensor:
        weighed = tf.reduce_sum(pixels * tf.constant(_LUMA, tf.int64), axis=2, keepdims=True)
        return (weighed + 2 ** (_LUMA_BITS - 1)) // 2**_LUMA_BITS

    convert = luma if channels == 1 else lambda: tf.repeat(pixels, 3, axis=2)
    return tf.cond(tf.shape(pixels)[2] == channels, lambda: pixels, convert)


def _fit(pixels: tf.Tensor, size: tuple[int, int], how: Fit) -> tf.Tensor:
    """float32 [height, width, channels] to [*size, channels], as `tfrecords.images.fit.fit` but not rounded."""
    height, width = (tf.cast(tf.shape(pixels)[axis], tf.float64) for axis in (0, 1))
    inner: list[Any] = list(size)
    rows, columns = (tf.zeros_like(height), height), (tf.zeros_like(width), width)
    if how == "pad":
        scale = tf.minimum(size[0] / height, size[1] / width)
        inner = [
            tf.clip_by_value(tf.cast(tf.round(side * scale), tf.int32), 1, limit)
            for side, limit in ((height, size[0]), (width, size[1]))
        ]
    elif how == "crop":
        scale = tf.maximum(size[0] / height, size[1] / width)
        rows, columns = _centred(height, size[0] / scale), _centred(width, size[1] / scale)
    planes = tf.transpose(pixels, [2, 0, 1])
    planes = tf.matmul(_weights(height, *rows, inner[0]), planes)
    planes = tf.matmul(planes, _weights(width, *columns, inner[1]), transpose_b=True)
    fitted = tf.transpose(planes, [1, 2, 0])
    if how == "pad":
        top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
        fitted = tf.image.pad_to_bounding_box(fitted, top, left, *size)
    return fitted


def _centred(size: tf.Tensor, part: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    part = tf.minimum(part, size)
    return (size - part) / 2, (size + part) / 2


def _weights(size: tf.Tensor, start: tf.Tensor, stop: tf.Tensor, out_size: Any) -> tf.Tensor:
    """What of each input pixel an output pixel is made of: float32 [channels 1, out_size, size], rows sum to 1."""
    out, pixel = tf.range(tf.cast(out_size, tf.float64), dtype=tf.float64), tf.range(size, dtype=tf.float64)
    step = (stop - start) / tf.cast(out_size, tf.float64)
    begin = (start + step * out)[:, None]
    area = tf.minimum(pixel + 1, begin + step) - tf.maximum(pixel, begin)
    centre = tf.clip_by_value(start + step * (out + 0.5) - 0.5, 0, size - 1)[:, None]
    weights = tf.nn.relu(tf.where(step > 1, area, 1 - tf.abs(centre - pixel)))
    return tf.cast(weights / tf.reduce_sum(weights, axis=1, keepdims=True), tf.float32)[None]

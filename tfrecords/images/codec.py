"""Stored images to pixels and back.

Pixels are `uint8` or `uint16` arrays [height, width, channels] with 1 or 3 (red, green, blue) channels,
0 black and full scale white. Each encoding is lossless from here on: `decode(encode(x))` is `x`, and a
JPEG is only ever kept as it came, decoded with the accurate integer DCT (ISLOW) and full chroma
upsampling, which gives the same pixels in every build of libjpeg-turbo.
"""

from __future__ import annotations

import math

import blake3
import cv2
import numpy as np
import simplejpeg

from cxr.errors import DatasetError, ImageError
from tfrecords.format.schema import Record

PNG_COMPRESSION = 3
"""zlib level for PNG: on full-resolution X-rays level 6 is 2 % smaller and takes twice as long."""
PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_SPACES = {1: "GRAY", 3: "RGB", 4: "CMYK"}


def decode_jpeg(data: bytes | memoryview, channels: int) -> np.ndarray:
    """Decodes a JPEG file, strictly: what libjpeg only warns about (a damaged stretch, a missing end) is an error.

    Args:
      data: the file.
      channels: 1 for the luma plane alone, 3 for red, green, blue, 4 for cyan, magenta, yellow, black.

    Returns:
      uint8 [height, width, channels].

    Raises:
      ImageError: the file is damaged or not a JPEG.
    """
    try:
        return simplejpeg.decode_jpeg(data, _JPEG_SPACES[channels], fastdct=False, fastupsample=False, strict=True)
    except ValueError as error:
        raise ImageError(f"damaged JPEG: {error}") from error


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 or uint16 [height, width, 1 or 3] as a PNG file, without loss."""
    ordered = pixels[..., ::-1] if pixels.shape[2] == 3 else pixels
    done, data = cv2.imencode(".png", ordered, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])
    if not done:
        raise ImageError(f"PNG encoding failed for pixels {pixels.dtype} {pixels.shape}")
    return data.tobytes()


def decode_png(data: bytes | memoryview) -> np.ndarray:
    """Decodes a grey or RGB PNG file of 8 or 16 bits to uint8 or uint16 [height, width, 1 or 3].

    Raises:
      ImageError: the file is damaged or not a PNG.
    """
    start = bytes(data[: len(PNG_START)])
    if start != PNG_START:  # OpenCV would decode any format it knows
        raise ImageError(f"not a PNG; it begins with {start!r}")
    return np.ascontiguousarray(decode_unchanged(data, "PNG")[..., ::-1])


def decode_unchanged(data: bytes | memoryview, kind: str) -> np.ndarray:
    """OpenCV's pixels of a file in their own depth: [height, width, 1], or 3 (blue, green, red) or 4 with alpha.

    Raises:
      ImageError: the file, said to be of the format `kind`, is damaged.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(f"damaged {kind}: {error}") from error
    if pixels is None:
        raise ImageError(f"damaged {kind}: the compressed pixels cannot be decoded")
    return pixels[..., None] if pixels.ndim == 2 else pixels


def encode(pixels: np.ndarray, encoding: str) -> bytes:
    """Stores pixels as `png` or `raw` bytes."""
    if encoding == "png":
        return encode_png(pixels)
    if encoding == "raw":
        return np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).tobytes()
    raise ValueError(f"encoding {encoding!r}: expected 'png' or 'raw'")


def decode(record: Record) -> np.ndarray:
    """The pixels of a record: uint8 or uint16 [height, width, channels].

    Raises:
      ImageError: the stored image is damaged.
      DatasetError: it decodes, but not to the shape and depth that the record states, or the record states
        what no image has.
    """
    return decode_image(record.image, record.encoding, (record.height, record.width, record.channels), record.bit_depth)


def decode_image(image: bytes | memoryview, encoding: str, shape: tuple[int, int, int], bit_depth: int) -> np.ndarray:
    """The pixels of a stored image; arguments and errors as the fields of a `Record` and those of `decode`.

    Returns:
      uint8 or uint16 of `shape`, [height, width, channels]; for `raw` a view of `image`.
    """
    if min(shape) < 1 or shape[2] not in (1, 3) or bit_depth not in (8, 16):
        raise DatasetError(f"the record says {shape} at {bit_depth} bits; expected 1 or 3 channels, 8 or 16 bits")
    dtype = np.dtype(f"<u{bit_depth // 8}")
    if encoding == "raw":
        if len(image) != (needed := math.prod(shape) * bit_depth // 8):
            raise DatasetError(f"raw image of {len(image)} bytes; {shape} at {bit_depth} bits needs {needed}")
        return np.frombuffer(image, dtype).reshape(shape)
    if encoding == "jpeg":
        pixels = decode_jpeg(image, shape[2])
    elif encoding == "png":
        pixels = decode_png(image)
    else:
        raise DatasetError(f"unknown image encoding {encoding!r}: expected jpeg, png or raw")
    if pixels.shape != shape or pixels.dtype != dtype:
        raise DatasetError(
            f"the {encoding} image decodes to {pixels.dtype} {pixels.shape}; the record says {dtype} {shape}"
        )
    return pixels


def hash_pixels(pixels: np.ndarray) -> str:
    """BLAKE3 of shape, depth and pixels, 64 hex digits: equal for two images exactly when their pixels are.

    BLAKE3 rather than SHA-256 because it takes a quarter of the time even where the processor has SHA
    instructions, and each image is hashed once beside a decode of 2 to 4 ms.

    Args:
      pixels: uint8 or uint16 [height, width, channels].
    """
    height, width, channels = pixels.shape
    hasher = blake3.blake3(f"{height}x{width}x{channels}x{pixels.dtype.itemsize}".encode())
    stored = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    hasher.update(stored.reshape(-1).view(np.uint8).data)  # blake3 takes bytes, not 16-bit items
    return hasher.hexdigest()


def pixel_statistics(pixels: np.ndarray) -> tuple[float, float]:
    """(mean, variance) over all pixels and channels of one image.

    Args:
      pixels: uint8 or uint16 [height, width, channels].

    Returns:
      The mean in [0, 1] of full scale, and the variance in the same unit squared.
    """
    full_scale = float(np.iinfo(pixels.dtype).max)
    means, deviations = (values[:, 0] / full_scale for values in cv2.meanStdDev(pixels))
    mean = means.mean()
    return float(mean), float((deviations**2 + means**2).mean() - mean**2)


def area_downscale(pixels: np.ndarray, size: int) -> np.ndarray:
    """Averages an image over areas so that its short side is `size` pixels; never enlarges.

    The long side is rounded to the nearest pixel. Every output pixel is the mean of exactly the area it
    covers (OpenCV's INTER_AREA), rounded to the nearest level, so nothing aliases at any factor.

    Args:
      pixels: uint8 or uint16 [height, width, channels].
      size: length of the short side of the result, pixels.

    Returns:
      The input where its short side is at most `size`, else an array of the same dtype and channels.
    """
    height, width, channels = pixels.shape
    short = min(height, width)
    if short <= size:
        return pixels
    new_width, new_height = max(size, round(width * size / short)), max(size, round(height * size / short))
    small = cv2.resize(pixels, (new_width, new_height), interpolation=cv2.INTER_AREA)
    return small.reshape(new_height, new_width, channels)


def raise_depth(pixels: np.ndarray, bit_depth: int) -> np.ndarray:
    """Pixels in a data set's depth: 8-bit levels x 257 where it has 16 bits, so that white stays white.

    Args:
      pixels: uint8 or uint16 [height, width, channels].
      bit_depth: 8 or 16.
    """
    return pixels.astype(np.uint16) * 257 if bit_depth == 16 and pixels.dtype == np.uint8 else pixels


def lower_depth(pixels: np.ndarray) -> np.ndarray:
    """Pixels as uint8: 16-bit levels / 257, rounded, which undoes `raise_depth`; uint8 stays as it is."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def match_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Pixels with 1 or 3 channels: 3 repeats grey, 1 turns colour into luma (ITU-R BT.601).

    Args:
      pixels: uint8 or uint16 [height, width, 1 or 3].
      channels: 1 or 3.
    """
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]

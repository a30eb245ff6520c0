"""Stored images to pixels and back, against Pillow, TensorFlow and an exact area average."""

from __future__ import annotations

import dataclasses
import io

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cxr.errors import DatasetError, ImageError
from tfrecords.format.schema import Record
from tfrecords.images import codec

DEPTHS = pytest.mark.parametrize("bit_depth", [8, 16])
CHANNELS = pytest.mark.parametrize("channels", [1, 3])
JPEGS = pytest.mark.parametrize(
    ("channels", "options"),
    [
        (1, {}),
        (1, {"progressive": True}),
        (3, {"subsampling": "4:2:0"}),
        (3, {"subsampling": "4:2:0", "progressive": True}),
        (3, {"subsampling": "4:4:4", "quality": 100}),
        (3, {"subsampling": "4:2:2", "quality": 30}),
    ],
)


@pytest.fixture(autouse=True, scope="module")
def quiet_opencv():
    """OpenCV reports damaged files on standard error as well."""
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    yield
    cv2.utils.logging.setLogLevel(before)


def record_of(pixels: np.ndarray, encoding: str, image: bytes | None = None) -> Record:
    height, width, channels = pixels.shape
    data = codec.encode(pixels, encoding) if image is None else image
    depth = pixels.dtype.itemsize * 8
    return Record(data, encoding, height, width, channels, depth, 0, "", "p", "a/b.jpeg", codec.hash_pixels(pixels))


@pytest.mark.parametrize("encoding", ["png", "raw"])
@DEPTHS
@CHANNELS
@pytest.mark.parametrize("size", [(31, 47), (1, 1), (1, 9), (9, 1)])
def test_encodings_are_lossless(picture, encoding, bit_depth, channels, size):
    pixels = np.random.default_rng(1).integers(0, 2**bit_depth, (*size, channels)).astype(f"u{bit_depth // 8}")
    back = codec.decode(record_of(pixels, encoding))
    assert (back.dtype, back.shape) == (pixels.dtype, pixels.shape)
    np.testing.assert_array_equal(back, pixels)


def test_raw_pixels_are_little_endian_rows():
    pixels = np.array([[[1], [256]], [[0x1234], [65535]]], np.uint16)
    stored = bytes.fromhex("0100 0001 3412 ffff")
    assert codec.encode(pixels, "raw") == stored
    assert codec.encode(pixels.astype(">u2"), "raw") == stored
    assert codec.encode(np.asfortranarray(pixels), "raw") == stored


@DEPTHS
@CHANNELS
def test_png_files_are_what_other_decoders_read(picture, bit_depth, channels):
    pixels = picture(3, 20, 30, channels, bit_depth)
    file = codec.encode_png(pixels)
    read = tf.io.decode_png(file, dtype=pixels.dtype).numpy()
    np.testing.assert_array_equal(read, pixels)
    if bit_depth == 8 or channels == 1:  # Pillow cuts 16-bit colour to 8
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file))).reshape(pixels.shape), pixels)


@JPEGS
def test_jpeg_gives_the_pixels_of_pillow_and_of_tensorflows_accurate_dct(picture, jpeg, channels, options):
    file = jpeg(picture(5, 93, 121, channels), **options)
    pixels = codec.decode_jpeg(file, channels)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (93, 121, channels))
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(file))).reshape(pixels.shape))
    accurate = tf.io.decode_jpeg(file, channels=channels, dct_method="INTEGER_ACCURATE")
    np.testing.assert_array_equal(pixels, accurate)
    np.testing.assert_array_equal(codec.decode(record_of(pixels, "jpeg", file)), pixels)


def test_tensorflows_default_dct_is_not_accurate(picture, jpeg):
    """The reason for `tfds_image.ExactImage`: should this fail one day, that class can go."""
    file = jpeg(picture(5, 93, 121, 1), quality=100)
    assert np.any(tf.io.decode_jpeg(file).numpy() != codec.decode_jpeg(file, 1))


def test_a_colour_jpeg_of_equal_channels_gives_its_luma(picture, jpeg):
    grey = picture(6, 40, 56, 1)
    file = jpeg(np.repeat(grey, 3, axis=2), quality=95)
    colour = codec.decode_jpeg(file, 3)
    np.testing.assert_array_equal(np.repeat(codec.decode_jpeg(file, 1), 3, axis=2), colour)


@JPEGS
def test_a_jpeg_cut_anywhere_is_refused(picture, jpeg, channels, options):
    file = jpeg(picture(7, 48, 64, channels), **options)
    for cut in [*range(0, len(file), 7), len(file) - 2, len(file) - 1]:
        with pytest.raises(ImageError, match="damaged JPEG"):
            codec.decode_jpeg(file[:cut], channels)


@JPEGS
def test_a_jpeg_with_a_damaged_stretch_is_refused(picture, jpeg, channels, options):
    file = jpeg(picture(8, 96, 128, channels), **options)
    scan = file.index(b"\xff\xda")
    middle = scan + (len(file) - scan) // 2
    marker = file[:middle] + b"\xff\xc4" * 4 + file[middle + 8 :]  # a table where coefficients should be
    with pytest.raises(ImageError, match="damaged JPEG"):
        codec.decode_jpeg(marker, channels)


@DEPTHS
def test_a_damaged_png_is_refused_at_any_cut_and_any_flipped_bit(picture, bit_depth):
    file = codec.encode_png(picture(9, 24, 32, 1, bit_depth))
    end = len(file) - 12  # the empty IEND chunk may be damaged without loss
    for cut in range(0, end, 5):
        with pytest.raises(ImageError, match="PNG"):
            codec.decode_png(file[:cut])
    for position in range(0, end, 5):
        damaged = bytearray(file)
        damaged[position] ^= 1
        with pytest.raises(ImageError, match="PNG"):
            codec.decode_png(bytes(damaged))


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xe0", b"GIF89a", bytes(100)])
def test_other_bytes_are_no_image(data):
    with pytest.raises(ImageError, match="damaged JPEG"):
        codec.decode_jpeg(data, 1)
    with pytest.raises(ImageError, match="not a PNG"):
        codec.decode_png(data)


@pytest.mark.parametrize("encoding", ["jpeg", "source", ""])
def test_pixels_are_not_encoded_otherwise(encoding):
    with pytest.raises(ValueError, match=f"encoding '{encoding}': expected 'png' or 'raw'"):
        codec.encode(np.zeros((2, 2, 1), np.uint8), encoding)


@pytest.mark.parametrize(
    ("encoding", "change", "message"),
    [
        ("png", {"height": 11}, r"the png image decodes to uint8 \(10, 12, 1\); the record says uint8 \(11, 12, 1\)"),
        ("png", {"height": 12, "width": 10}, r"the png image decodes to uint8 \(10, 12, 1\)"),
        ("png", {"channels": 3}, r"the record says uint8 \(10, 12, 3\)"),
        ("png", {"bit_depth": 16}, r"decodes to uint8 \(10, 12, 1\); the record says uint16"),
        ("jpeg", {"width": 13}, r"the jpeg image decodes to uint8 \(10, 12, 1\); the record says uint8 \(10, 13, 1\)"),
        ("raw", {"height": 11}, r"raw image of 120 bytes; \(11, 12, 1\) at 8 bits needs 132"),
        ("raw", {"bit_depth": 16}, r"raw image of 120 bytes; \(10, 12, 1\) at 16 bits needs 240"),
        ("raw", {"image": b""}, r"raw image of 0 bytes; .* needs 120"),
        ("raw", {"height": 2**62, "width": 8, "image": b""}, rf"needs {2**65}"),
        ("raw", {"height": -10, "width": -12}, r"the record says \(-10, -12, 1\) at 8 bits; expected"),
        ("raw", {"height": 0, "image": b""}, r"the record says \(0, 12, 1\) at 8 bits"),
        ("raw", {"channels": 2, "height": 5}, r"the record says \(5, 12, 2\) at 8 bits; expected 1 or 3 channels"),
        ("raw", {"bit_depth": 0}, r"at 0 bits; expected 1 or 3 channels, 8 or 16 bits"),
        ("raw", {"bit_depth": 12}, r"at 12 bits"),
        ("raw", {"encoding": "gif"}, r"unknown image encoding 'gif': expected jpeg, png or raw"),
    ],
)
def test_an_image_that_contradicts_its_record_is_refused(picture, jpeg, encoding, change, message):
    pixels = picture(2, 10, 12, 1)
    record = record_of(pixels, encoding, jpeg(pixels) if encoding == "jpeg" else None)
    codec.decode(record)
    with pytest.raises(DatasetError, match=message):
        codec.decode(dataclasses.replace(record, **change))


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_a_file_of_another_format_than_the_record_says_is_refused(picture, jpeg, encoding):
    pixels = picture(2, 10, 12, 1)
    other = jpeg(pixels) if encoding == "png" else codec.encode_png(pixels)
    with pytest.raises(ImageError):
        codec.decode(record_of(pixels, encoding, other))


def test_the_pixel_hash_tells_shape_and_depth_apart():
    flat = np.arange(24, dtype=np.uint8)
    views = [flat.reshape(shape) for shape in ((4, 6, 1), (6, 4, 1), (2, 4, 3), (4, 2, 3), (24, 1, 1), (1, 24, 1))]
    views += [flat.view("<u2").reshape(shape) for shape in ((4, 3, 1), (2, 2, 3))]
    views += [views[0] ^ 1]
    assert len({codec.hash_pixels(view) for view in views}) == len(views)


@DEPTHS
@CHANNELS
def test_the_pixel_hash_does_not_depend_on_how_pixels_lie_in_memory(picture, bit_depth, channels):
    pixels = picture(1, 9, 7, channels, bit_depth)
    wide = np.zeros((9, 14, channels), pixels.dtype)
    wide[:, ::2] = pixels
    same = [pixels, np.asfortranarray(pixels), wide[:, ::2], pixels.astype(pixels.dtype.newbyteorder(">"))]
    assert {codec.hash_pixels(each) for each in same} == {codec.hash_pixels(pixels.copy())}
    assert len(codec.hash_pixels(pixels)) == 64


def test_the_pixel_hash_of_a_known_image():
    """Frozen: data sets hold it. The blake3 package over the text and bytes in the docstring gives it."""
    assert (
        codec.hash_pixels(np.array([[[1], [2]]], np.uint8))
        == "4b6375b0f8f0c0eae49d8a9ee249afe2036a34931d396361b0e2b3d7e6d482b7"
    )
    assert (
        codec.hash_pixels(np.array([[[1], [2]]], np.uint16))
        == "d09a5ea298b7482d7ba45ef28628eb2b577cf2efabfc67fa5f8eaf1a8602a00c"
    )


def area_weights(source: int, target: int) -> np.ndarray:
    """float64 [target, source]: the share of each source pixel in each target pixel, rows summing to 1."""
    edges = np.arange(target + 1) * (source / target)
    low, high = edges[:-1, None], edges[1:, None]
    pixels = np.arange(source)[None]
    overlap = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None)
    return overlap / overlap.sum(axis=1, keepdims=True)


def exact_area(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.einsum(
        "hy,yxc,wx->hwc",
        area_weights(pixels.shape[0], height),
        pixels.astype(np.float64),
        area_weights(pixels.shape[1], width),
        optimize=True,
    )


@DEPTHS
@CHANNELS
@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [
        ((128, 192), 64, (64, 96)),  # a whole factor
        ((127, 384), 100, (100, 302)),
        ((301, 233), 224, (289, 224)),
        ((65, 64), 63, (64, 63)),
        ((40, 400), 7, (7, 70)),
        ((333, 40), 39, (325, 39)),
        ((50, 51), 1, (1, 1)),
    ],
)
def test_downscaling_is_the_exact_area_average(bit_depth, channels, size, short, expected):
    rng = np.random.default_rng(bit_depth + channels)
    pixels = rng.integers(0, 2**bit_depth, (*size, channels)).astype(f"u{bit_depth // 8}")
    small = codec.area_downscale(pixels, short)
    assert (small.dtype, small.shape) == (pixels.dtype, (*expected, channels))
    exact = exact_area(pixels, *expected)
    tolerance = 0.5 + (1e-3 if bit_depth == 8 else 0.1)  # a rounding, and OpenCV's float32 sums
    assert np.abs(small - exact).max() <= tolerance
    assert abs(small.mean() - pixels.mean()) < 0.01 * 2**bit_depth


@DEPTHS
@CHANNELS
@pytest.mark.parametrize("level", [1, 0.37])
def test_a_constant_image_stays_constant(bit_depth, channels, level):
    value = round(level * (2**bit_depth - 1))
    pixels = np.full((211, 307, channels), value, f"u{bit_depth // 8}")
    small = codec.area_downscale(pixels, 50)
    assert small.shape == (50, 73, channels)
    assert np.all(small == value)


@pytest.mark.parametrize("size", [48, 49, 1000])
@pytest.mark.parametrize("shape", [(48, 64, 1), (64, 48, 3), (48, 48, 1)])
def test_nothing_is_enlarged(picture, size, shape):
    pixels = picture(12, *shape)
    assert codec.area_downscale(pixels, size) is pixels


@pytest.mark.parametrize("size", [1, 2, 17, 47])
@pytest.mark.parametrize("shape", [(48, 48), (48, 49), (49, 48), (48, 1000), (1000, 48)])
def test_the_short_side_is_exact_and_the_long_one_keeps_the_aspect(size, shape):
    small = codec.area_downscale(np.zeros((*shape, 1), np.uint8), size)
    assert min(small.shape[:2]) == size
    assert abs(max(small.shape[:2]) - max(shape) * size / min(shape)) <= 0.5


@DEPTHS
@CHANNELS
@pytest.mark.parametrize("read_only", [False, True])
def test_pixel_statistics_are_those_of_full_scale(picture, bit_depth, channels, read_only):
    pixels = picture(13, 37, 53, channels, bit_depth)
    if read_only:  # as `decode` gives raw records
        pixels = codec.decode(record_of(pixels, "raw"))
    mean, variance = codec.pixel_statistics(pixels)
    scaled = pixels / (2**bit_depth - 1)
    assert mean == pytest.approx(scaled.mean(), abs=1e-12)
    assert variance == pytest.approx(scaled.var(), abs=1e-12)
    assert isinstance(mean, float) and isinstance(variance, float)


def test_pixel_statistics_of_one_level():
    assert codec.pixel_statistics(np.full((4, 5, 3), 65535, np.uint16)) == (1.0, 0.0)
    assert codec.pixel_statistics(np.zeros((1, 1, 1), np.uint8)) == (0.0, 0.0)

"""16-bit files that hold fewer bits: how many are in use, which scale a data set gets, and what comes of it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr.errors import ImageError
from tfrecords.images.decode import count_bits_in_use, decode
from tfrecords.images.scale import choose_scale, count_bits, stretch

LEVELS = np.random.default_rng(2).integers(0, 4096, (40, 50), dtype=np.uint16)
LEVELS.flat[:2] = 0, 4095
FULL = np.round(LEVELS / 4095 * 65535).astype(np.uint16)


def encode(pixels: np.ndarray, kind: str = ".png") -> bytes:
    return cv2.imencode(kind, pixels)[1].tobytes()


@pytest.mark.parametrize(
    ("mode", "seen", "bits"),
    [
        ("auto", [12, 11, 12], 12),
        ("auto", [11, 9], 12),
        ("auto", [13], 14),
        ("auto", [15, 12], 16),
        ("auto", [12, 16], 16),
        ("auto", [3], 8),
        ("auto", [None, 12, None], 12),
        ("auto", [None], 16),
        ("auto", [], 16),
        ("full", [12, 11], 16),
        ("data", [11, 9, None], 11),
        ("data", [15], 15),
        ("data", [3], 8),
        ("data", [], 16),
    ],
)
def test_the_scale_of_a_data_set(mode, seen, bits):
    assert choose_scale(mode, iter(seen)) == bits


def test_another_mode():
    with pytest.raises(ValueError, match="scale 'best': expected one of auto, full, data"):
        choose_scale("best", [12])


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(0, 0, 0), (0, 255, 8), (0, 256, 9), (5, 4095, 12), (-2048, 2047, 12), (-1, 0, 1), (-1025, 3, 12)],
)
def test_bits_that_hold_a_range(low, high, bits):
    assert count_bits(low, high) == bits


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 15, 16])
def test_stretching_is_rounding_to_the_nearest_level(bits):
    values = np.arange(2**bits, dtype=np.uint16)
    expected = [(2 * int(v) * 65535 + 2**bits - 1) // (2 * (2**bits - 1)) for v in values]
    np.testing.assert_array_equal(stretch(values, bits), expected)


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_a_file_of_12_bits_in_16(kind):
    data = encode(LEVELS, kind)
    assert count_bits_in_use(data) == 12
    with pytest.raises(ImageError, match="uses 12 of them"):
        decode(data)
    decoded = decode(data, bits=12)
    np.testing.assert_array_equal(decoded.pixels[..., 0], FULL)
    assert decoded.bits_in_use == 12
    assert decoded.keepable is None  # the file itself has other levels
    np.testing.assert_array_equal(decode(data, bits=13).pixels[..., 0], np.round(LEVELS / 8191 * 65535))


def test_a_white_of_zero_is_turned_behind_the_scale(tmp_path):
    Image.fromarray(LEVELS).save(tmp_path / "a.tif", tiffinfo={262: 0})
    data = (tmp_path / "a.tif").read_bytes()
    assert count_bits_in_use(data) == 12
    np.testing.assert_array_equal(decode(data, bits=12).pixels[..., 0], 65535 - FULL)


def test_colour():
    colour = np.dstack([LEVELS, LEVELS[::-1], LEVELS[:, ::-1]])
    data = encode(colour)
    assert count_bits_in_use(data) == 12
    expected = np.dstack([FULL, FULL[::-1], FULL[:, ::-1]])[..., ::-1]
    np.testing.assert_array_equal(decode(data, bits=12).pixels, expected)


def test_what_uses_all_bits_is_left_alone():
    data = encode(FULL)
    plain, scaled = decode(data), decode(data, bits=16)
    assert plain.bits_in_use == scaled.bits_in_use == 16
    assert plain.keepable == scaled.keepable == "png"
    np.testing.assert_array_equal(plain.pixels, scaled.pixels)


def test_8_bits_have_no_say():
    data = encode((LEVELS >> 4).astype(np.uint8))
    assert decode(data).bits_in_use is None
    assert count_bits_in_use(data) is None
    np.testing.assert_array_equal(decode(data, bits=12).pixels, decode(data).pixels)


def test_values_beyond_the_scale():
    with pytest.raises(ImageError, match=r"uses 16 bits of 16, and the scale of the data set has 12: .*--scale full"):
        decode(encode(FULL), bits=12)
    with pytest.raises(ValueError, match="a scale of 17 bits; expected 8 to 16"):
        decode(encode(FULL), bits=17)

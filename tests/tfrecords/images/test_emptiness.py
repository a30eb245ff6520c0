"""Pictures with nothing in them are refused with the reason, and those that have something never are."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr.errors import ImageError
from tfrecords.images import emptiness
from tfrecords.images.decode import decode

RNG = np.random.default_rng(5)


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def xray(top: int = 255, dtype: type = np.uint8, side: int = 300) -> np.ndarray:
    """Two dark lungs on bright tissue, with noise, from 0 to `top`."""
    rows, columns = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    lungs = sum(np.exp(-(((columns - centre) / 0.25) ** 2) - (rows / 0.6) ** 2) for centre in (-0.4, 0.4))
    picture = 0.8 - 0.6 * lungs + RNG.normal(0, 0.02, rows.shape)
    return (np.clip(picture, 0, 1) * top).astype(dtype)


def with_alpha(alpha: int) -> np.ndarray:
    picture = cv2.cvtColor(xray(), cv2.COLOR_GRAY2BGRA)
    picture[..., 3] = alpha
    return picture


def dotted(level: int, dots: int) -> np.ndarray:
    picture = np.full((300, 300), level, np.uint8)
    picture.flat[RNG.choice(picture.size, int(picture.size * dots / 100), replace=False)] = 128
    return picture


EMPTY = {
    "black": (np.zeros((300, 300), np.uint8), r"100.0% of its pixels are black; expected at most 95%"),
    "white": (np.full((300, 300), 255, np.uint8), "100.0% of its pixels are white"),
    "white of 16 bits": (np.full((300, 300), 65535, np.uint16), "100.0% of its pixels are white"),
    "black of 16 bits": (np.zeros((300, 300), np.uint16), "100.0% of its pixels are black"),
    "constant": (np.full((300, 300), 90, np.uint8), "98 % of its pixels have one level, 90 of 255"),
    "one colour": (np.full((300, 300, 3), (200, 90, 60), np.uint8), "98 % of its pixels have one level"),
    "saturated but for a few": (dotted(255, 3), r"9\d.\d% of its pixels are white"),
    "black but for a few": (dotted(0, 3), r"9\d.\d% of its pixels are black"),
    "two levels beside each other": (RNG.integers(120, 122, (300, 300), np.uint8), "lie in 2 levels of 256"),
    "hardly any levels": (RNG.integers(120, 136, (300, 300), np.uint8), "lie in 16 levels of 256; expected more"),
    "dark": (xray(30), "below 9.8% of white; an X-ray reaches 12.5%"),
    "12 bits on a scale of 16": (xray(4095, np.uint16), "16 bits a sample and uses 12 of them.*--scale data"),
    "all transparent": (with_alpha(0), "100.0% of the image is transparent; expected at most 90%"),
    "nearly transparent": (with_alpha(20), r"92.2% of the image is transparent"),
    "few pixels": (np.full((4, 4), 128, np.uint8), "98 % of its pixels have one level"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_nothing_in_it(name):
    pixels, reason = EMPTY[name]
    with pytest.raises(ImageError, match=reason):
        decode(png(pixels))


def test_of_any_format():
    black = Image.fromarray(np.zeros((40, 40), np.uint8))
    for kind in ("JPEG", "PNG", "TIFF", "BMP", "WEBP"):
        buffer = io.BytesIO()
        black.save(buffer, kind)
        with pytest.raises(ImageError, match=r"there is nothing in the picture: 100\.0% of its pixels are black"):
            decode(buffer.getvalue())


def test_transparent_with_a_palette():
    picture = Image.fromarray(xray()).convert("P")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=bytes(256))
    with pytest.raises(ImageError, match="transparent"):
        decode(buffer.getvalue())


KEPT = {
    "an X-ray": xray(),
    "of 16 bits": xray(65535, np.uint16),
    "underexposed": xray(60),
    "of little contrast": xray(40) + np.uint8(100),
    "with wide collimation": np.pad(xray(side=100), 100),
    "two levels": np.where(xray() > 100, 255, 0).astype(np.uint8),
    "lungs cut out": np.dstack([*[xray()] * 3, (xray() < 150) * np.uint8(255)]),
    "of one pixel": np.full((1, 1), 128, np.uint8),
    "of a few pixels": np.array([[0, 100, 255]], np.uint8),
    "in colour": np.dstack([xray(), np.zeros((300, 300), np.uint8), np.zeros((300, 300), np.uint8)]),
}


@pytest.mark.parametrize("name", KEPT)
def test_something_in_it(name):
    decode(png(KEPT[name]))


def test_phantoms_are_far_from_the_thresholds(phantoms):
    check_margins([path.read_bytes() for path in sorted(phantoms.rglob("*.jpeg"))])


def test_real_xrays_are_far_from_the_thresholds(fullres):
    check_margins([path.read_bytes() for path in sorted(fullres.rglob("*.jpeg"))])


def check_margins(files: list[bytes]) -> None:
    """Quantiles of all pixels, where the module looks at some of them."""
    assert len(files) > 50
    for data in files:
        pixels = decode(data).pixels
        low, high = np.quantile(pixels, (emptiness.TAIL, 1 - emptiness.TAIL))
        assert high - low > 5 * emptiness.LEAST_SPAN
        assert high > 4 * emptiness.DARKEST
        assert max((pixels == 0).mean(), (pixels == 255).mean()) < emptiness.MOST_SATURATED / 2

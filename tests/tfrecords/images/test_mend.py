"""JPEGs with a fault around the image data are mended; a fault in it is refused."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr.errors import ImageError
from tfrecords.images import mend
from tfrecords.images.decode import decode, read_header

ROWS, COLUMNS = np.mgrid[:120, :160]
NOISE = np.random.default_rng(1).normal(0, 8, ROWS.shape)
GREY = np.clip(127 + 90 * np.sin(COLUMNS / 11) * np.cos(ROWS / 9) + NOISE, 0, 255).astype(np.uint8)
RGB = np.dstack([GREY, 255 - GREY, np.roll(GREY, 9, 1)])


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


FILES = {
    "grey": jpeg(GREY),
    "colour": jpeg(RGB, subsampling=2),
    "colour in full": jpeg(RGB, subsampling=0, quality=100),
    "with restart markers": jpeg(GREY, restart_marker_rows=1),
    "with orientation": jpeg(GREY, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
}


def stray(data: bytes, marker: bytes, junk: bytes) -> bytes:
    at = data.index(marker)
    return data[:at] + junk + data[at:]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("fault", "repaired"),
    [
        (lambda data: data[:-1], "JPEG with no end marker (EOI)"),
        (lambda data: data[:-2], "JPEG with no end marker (EOI)"),
        (lambda data: stray(data, b"\xff\xdb", b"\0"), "JPEG with 1 stray bytes before a marker"),
        (lambda data: stray(data, b"\xff\xc4", b"junk\0"), "JPEG with 5 stray bytes before a marker"),
        (lambda data: stray(data[:-2], b"\xff\xdb", b"\0"), "JPEG with 1 stray bytes before a marker and no end"),
    ],
    ids=["half an end marker", "no end marker", "a stray byte", "stray bytes", "both"],
)
def test_a_fault_around_the_image_data(name, fault, repaired, capfd):
    good, mended = decode(FILES[name]), decode(fault(FILES[name]))
    assert capfd.readouterr() == ("", "")
    np.testing.assert_array_equal(mended.pixels, good.pixels)
    assert mended.repaired.startswith(repaired)
    assert (good.repaired, good.keepable is None) == ("", name == "with orientation")
    assert mended.keepable is None  # a strict reader would refuse the file
    assert mended.header == good.header == read_header(fault(FILES[name]))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("missing", [3, 4, 12, 300])
def test_missing_image_data(name, missing):
    with pytest.raises(ImageError, match="damaged JPEG"):
        decode(FILES[name][:-missing])
    with pytest.raises(ImageError, match="damaged JPEG"):  # somebody has put an end marker there
        decode(FILES[name][:-missing] + b"\xff\xd9")


def test_missing_scans_of_a_progressive_file():
    """Cut between two scans, no decoder can tell that more were to follow; without an end marker it is refused."""
    data = jpeg(GREY, progressive=True)
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    assert len(starts) > 3
    for cut in (*starts[1:], len(data) - 2):
        with pytest.raises(ImageError, match="damaged JPEG"):
            decode(data[:cut])


def test_stray_bytes_behind_the_start_of_the_image_data():
    """They are what a damaged stretch leaves, so they stay an error."""
    with pytest.raises(ImageError, match=r"damaged JPEG: .* extraneous bytes"):
        decode(FILES["grey"][:-2] + b"\x12\x34\x56\x78" * 4 + b"\xff\xd9")


def test_decoders_that_do_not_agree(monkeypatch):
    real = mend._by_pillow
    monkeypatch.setattr(mend, "_by_pillow", lambda data: real(data) ^ 1)
    with pytest.raises(ImageError, match="damaged JPEG"):
        decode(FILES["grey"][:-2])


@pytest.mark.parametrize("seed", range(4))
def test_damage_with_an_end_marker_missing(seed):
    """Whatever is accepted has the pixels of OpenCV."""
    rng = np.random.default_rng(seed)
    for _ in range(25):
        data = bytearray(FILES["grey"][:-2])
        for at in rng.integers(2, len(data), 2):
            data[at] = rng.integers(0, 256)
        try:
            decoded = decode(bytes(data))
        except ImageError:
            continue
        theirs = cv2.imdecode(np.frombuffer(bytes(data) + b"\xff\xd9", np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(decoded.pixels[..., 0], theirs)

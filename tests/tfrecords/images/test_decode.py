"""Files made here by Pillow, OpenCV and by hand, decoded and compared with the arrays that they were made from."""

from __future__ import annotations

import io
import re
import resource
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
import tensorflow as tf
from PIL import Image, ImageCms, ImageOps

from cxr.errors import ImageError
from tfrecords.images.codec import decode_png
from tfrecords.images.decode import DEFAULT_MAX_PIXELS, decode, read_header

HEIGHT, WIDTH = 37, 53
RNG = np.random.default_rng(7)
GREY8 = RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
RGB8 = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
ALPHA8 = RNG.integers(0, 256, (HEIGHT, WIDTH, 1), dtype=np.uint8)
ALPHA16 = RNG.integers(0, 65536, (HEIGHT, WIDTH, 1), dtype=np.uint16)
ROWS, COLUMNS = np.mgrid[:120, :160]
SMOOTH = (127 + 90 * np.sin(COLUMNS / 11) * np.cos(ROWS / 9)).astype(np.uint8)
SMOOTH_RGB = np.stack([SMOOTH, 255 - SMOOTH, np.roll(SMOOTH, 9, 1)], 2)
ORIENTATION = 0x0112


def save(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_rows(samples: np.ndarray, depth: int) -> Iterator[bytes]:
    for row in samples.reshape(len(samples), -1):
        if depth >= 8:
            yield row.astype(">u2" if depth == 16 else "u1").tobytes()
        else:
            yield np.packbits((row[:, None] >> np.arange(depth - 1, -1, -1)) & 1).tobytes()


def png(
    samples: np.ndarray, depth: int, colour: int, *extra: bytes, after: bytes = b"", interlaced: bool = False
) -> bytes:
    """A PNG file of raw samples [height, width, ...]; `extra` chunks before the pixels, `after` behind them."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    parts = [samples[y::down, x::right] for x, y, right, down in passes] if interlaced else [samples]
    rows = b"".join(b"\0" + row for part in parts if part.size for row in png_rows(part, depth))
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], depth, colour, 0, 0, interlaced)
    body = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def tiff(pixels: np.ndarray, order: str = "<", data: bytes | None = None, **tags: int) -> bytes:
    """An uncompressed TIFF file of one strip (or one a plane), its directory at the end."""
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    planes = channels if tags.get("planes") == 2 else 1
    stored = np.moveaxis(pixels, 2, 0) if planes > 1 else pixels
    data = stored.astype(stored.dtype.newbyteorder(order)).tobytes() if data is None else data
    strip = len(data) // planes
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    entries: dict[int, tuple[str, list[int]]] = {
        256: ("H", [width]),
        257: ("H", [height]),
        258: ("H", [tags.get("bits", pixels.dtype.itemsize * 8)] * channels),
        259: ("H", [1]),
        262: ("H", [tags.get("photometric", 2 if channels > 2 else 1)]),
        273: ("I", [8 + strip * plane for plane in range(planes)]),
        274: ("H", [tags.get("orientation", 1)]),
        277: ("H", [channels]),
        278: ("H", [height]),
        279: ("I", [strip] * planes),
        284: ("H", [tags.get("planes", 1)]),
        339: ("H", [kind] * channels),
    }
    if "extra" in tags:
        entries[338] = ("H", [tags["extra"]])
    behind = 8 + len(data) + 2 + 12 * len(entries) + 4
    directory, values = b"", b""
    for tag, (form, numbers) in sorted(entries.items()):
        value = struct.pack(order + form * len(numbers), *numbers)
        if len(value) > 4:
            values, value = values + value, struct.pack(order + "I", behind + len(values))
        directory += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[form], len(numbers)) + value.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    return head + data + struct.pack(order + "H", len(entries)) + directory + struct.pack(order + "I", 0) + values


def over_black(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    full = np.iinfo(colour.dtype).max
    return np.floor(colour.astype(float) * alpha / full + 0.5).astype(colour.dtype)


def png_cases() -> dict[str, tuple[bytes, np.ndarray, str | None]]:
    """(file, pixels, what it may be kept as) of every kind of PNG."""
    cases: dict[str, tuple[bytes, np.ndarray, str | None]] = {}
    for interlaced in (False, True):
        where = "interlaced" if interlaced else "plain"
        for depth in (1, 2, 4, 8, 16):
            samples = RNG.integers(0, 2**depth, (HEIGHT, WIDTH))
            full = (samples * (65535 if depth == 16 else 255) // (2**depth - 1)).astype("u2" if depth == 16 else "u1")
            clear_level = samples[0, 0] if depth > 1 else 0  # the white of one bit would leave nothing
            hole = chunk(b"tRNS", struct.pack(">H", clear_level))
            pierced = np.where(samples == clear_level, 0, full).astype(full.dtype)
            kept = "png" if depth >= 8 else None
            cases[f"grey {depth} bit {where}"] = (
                png(samples, depth, 0, interlaced=interlaced), full[..., None], kept
            )  # fmt: skip
            cases[f"grey {depth} bit one level transparent {where}"] = (
                png(samples, depth, 0, hole, interlaced=interlaced), pierced[..., None], None
            )  # fmt: skip
            if depth > 8:
                continue
            palette = RNG.integers(0, 256, (2**depth, 3), dtype=np.uint8)
            alphas = RNG.integers(0, 256, 2**depth, dtype=np.uint8)
            table, clear = chunk(b"PLTE", palette.tobytes()), chunk(b"tRNS", alphas.tobytes())
            cases[f"palette {depth} bit {where}"] = (
                png(samples, depth, 3, table, interlaced=interlaced), palette[samples], None
            )  # fmt: skip
            cases[f"palette {depth} bit transparent {where}"] = (
                png(samples, depth, 3, table, clear, interlaced=interlaced),
                over_black(palette[samples], alphas[samples][..., None]),
                None,
            )
        for depth, grey, colour, alpha in ((8, GREY8, RGB8, ALPHA8), (16, GREY16, RGB16, ALPHA16)):
            cases[f"RGB {depth} bit {where}"] = (png(colour, depth, 2, interlaced=interlaced), colour, "png")
            hole = chunk(b"tRNS", struct.pack(">HHH", *colour[0, 0].tolist()))
            pierced = np.where((colour == colour[0, 0]).all(2, keepdims=True), 0, colour).astype(colour.dtype)
            cases[f"RGB {depth} bit one colour transparent {where}"] = (
                png(colour, depth, 2, hole, interlaced=interlaced), pierced, None
            )  # fmt: skip
            cases[f"RGBA {depth} bit {where}"] = (
                png(np.concatenate([colour, alpha], 2), depth, 6, interlaced=interlaced),
                over_black(colour, alpha),
                None,
            )
            cases[f"LA {depth} bit {where}"] = (
                png(np.dstack([grey, alpha]), depth, 4, interlaced=interlaced),
                over_black(grey[..., None], alpha),
                None,
            )
    three = np.dstack([GREY8] * 3)
    cases["RGB of equal channels"] = (png(three, 8, 2), GREY8[..., None], None)
    cases["RGBA of equal channels"] = (
        png(np.dstack([three, ALPHA8]), 8, 6),
        over_black(GREY8[..., None], ALPHA8),
        None,
    )
    ramp = np.repeat(np.arange(256, dtype=np.uint8), 3)
    cases["palette of greys"] = (png(GREY8, 8, 3, chunk(b"PLTE", ramp.tobytes())), GREY8[..., None], None)
    gamma = (chunk(b"gAMA", struct.pack(">I", 220000)), chunk(b"bKGD", struct.pack(">H", 99)), chunk(b"sBIT", b"\x05"))
    cases["gamma and background are not applied"] = (png(GREY8, 8, 0, *gamma), GREY8[..., None], "png")
    return cases


PNG_CASES = png_cases()


def check(data: bytes, pixels: np.ndarray) -> None:
    decoded = decode(data)
    assert decoded.pixels.dtype == pixels.dtype
    assert decoded.pixels.shape == pixels.shape
    np.testing.assert_array_equal(decoded.pixels, pixels)
    assert decoded.pixels.flags.c_contiguous
    assert decoded.header.bit_depth == 8 * pixels.dtype.itemsize == read_header(data).bit_depth


@pytest.mark.parametrize("name", PNG_CASES)
def test_png(name: str):
    data, pixels, kept = PNG_CASES[name]
    check(data, pixels)
    assert decode(data).keepable == kept
    if kept:
        np.testing.assert_array_equal(decode_png(data), pixels)
        np.testing.assert_array_equal(tf.io.decode_png(data, dtype=pixels.dtype), pixels)  # as TFDS reads it
        with Image.open(io.BytesIO(data)) as image:
            if image.mode != "RGB" or pixels.dtype == np.uint8:  # Pillow cuts RGB to 8 bits
                np.testing.assert_array_equal(np.asarray(image).reshape(pixels.shape), pixels)


TIFF_CASES: dict[str, tuple[bytes, np.ndarray]] = {
    "RGBA by Pillow": (save(np.dstack([RGB8, ALPHA8]), "TIFF"), over_black(RGB8, ALPHA8)),
    "LA by Pillow": (save(Image.fromarray(np.dstack([GREY8, ALPHA8])), "TIFF"), over_black(GREY8[..., None], ALPHA8)),
    "1 bit": (save(Image.fromarray(GREY8 > 99), "TIFF"), (GREY8 > 99).astype(np.uint8)[..., None] * 255),
    "equal channels": (tiff(np.dstack([GREY8] * 3)), GREY8[..., None]),
    "16-bit equal channels": (tiff(np.dstack([GREY16] * 3)), GREY16[..., None]),
    "8-bit white is zero": (tiff(GREY8, photometric=0), 255 - GREY8[..., None]),
    "16-bit white is zero": (tiff(GREY16, photometric=0), 65535 - GREY16[..., None]),
    "8-bit planes": (tiff(RGB8, planes=2), RGB8),
    "16-bit RGBA": (tiff(np.dstack([RGB16, ALPHA16]), extra=2), over_black(RGB16, ALPHA16)),
    "16-bit RGB LZW": (cv2.imencode(".tiff", RGB16[..., ::-1])[1].tobytes(), RGB16),
}
for order in "<>":
    TIFF_CASES |= {
        f"grey 8 {order}": (tiff(GREY8, order), GREY8[..., None]),
        f"grey 16 {order}": (tiff(GREY16, order), GREY16[..., None]),
        f"RGB 8 {order}": (tiff(RGB8, order), RGB8),
        f"RGB 16 {order}": (tiff(RGB16, order), RGB16),
    }
for compression in ("tiff_lzw", "tiff_deflate", "packbits"):
    TIFF_CASES |= {
        f"grey 8 {compression}": (save(GREY8, "TIFF", compression=compression), GREY8[..., None]),
        f"grey 16 {compression}": (save(GREY16, "TIFF", compression=compression), GREY16[..., None]),
        f"RGB 8 {compression}": (save(RGB8, "TIFF", compression=compression), RGB8),
    }


@pytest.mark.parametrize("name", TIFF_CASES)
def test_tiff(name: str):
    data, pixels = TIFF_CASES[name]
    check(data, pixels)
    assert decode(data).keepable is None
    assert read_header(data).format == "TIFF"


def test_tiff_of_12_bits_spans_the_whole_range():
    levels = np.array([[0, 1, 2047, 2048, 4094, 4095]])
    bits = (levels[..., None] >> np.arange(11, -1, -1)) & 1
    data = tiff(levels.astype(np.uint16), bits=12, data=np.packbits(bits.ravel()).tobytes())
    check(data, np.round(levels / 4095 * 65535).astype(np.uint16)[..., None])


@pytest.mark.parametrize(
    ("kind", "image", "pixels"),
    [
        ("BMP", GREY8, GREY8[..., None]),
        ("BMP", RGB8, RGB8),
        ("BMP", np.dstack([GREY8] * 3), GREY8[..., None]),
        ("BMP", GREY8 > 99, (GREY8 > 99).astype(np.uint8)[..., None] * 255),
        ("BMP", np.dstack([RGB8, ALPHA8]), RGB8),  # the fourth byte of a plain 32-bit BMP means nothing
        ("WEBP", RGB8, RGB8),
        ("WEBP", GREY8, GREY8[..., None]),
        ("WEBP", np.dstack([RGB8, ALPHA8]), over_black(RGB8, ALPHA8)),
    ],
)
def test_bmp_and_webp(kind: str, image: np.ndarray, pixels: np.ndarray):
    data = save(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    check(data, pixels)
    assert decode(data).keepable is None
    assert read_header(data).format == kind


def run_lengths(levels: np.ndarray, bits: int) -> bytes:
    """A BMP file of `levels` [height, width], below 2^bits: in each row runs of two pixels, then a stretch without."""
    body = b""
    for row in levels[::-1]:
        half = len(row) // 4 * 2
        for first, second in row[:half].reshape(-1, 2).tolist():
            body += bytes([2, first << 4 | second] if bits == 4 else [1, first, 1, second])
        rest = row[half:]
        paired = np.append(rest, [0] * (len(rest) % 2)).reshape(-1, 2)
        packed = (paired @ [16, 1] if bits == 4 else rest).astype(np.uint8).tobytes()
        body += bytes([0, len(rest)]) + packed + b"\0" * (len(packed) % 2) + b"\0\0"
    body = body[:-2] + b"\0\1"
    palette = b"".join(bytes([level * 255 // (2**bits - 1)] * 3 + [0]) for level in range(2**bits))
    height, width = levels.shape
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 2 if bits == 4 else 1, len(body), 0, 0, 2**bits, 0)
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + palette + body


@pytest.mark.parametrize("width", [16, 17, 18, 19])
def test_bmp_with_run_lengths(width: int):
    levels = RNG.integers(0, 256, (9, width))
    check(run_lengths(levels, 8), levels.astype(np.uint8)[..., None])
    deep = run_lengths(levels // 16, 4)
    right = cv2.imdecode(np.frombuffer(deep, np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(right, levels // 16 * 17)  # the file is right, and Pillow 12 is not always
    with pytest.raises(ImageError, match="BMP with 4-bit run-length encoding is not supported; export it as PNG"):
        decode(deep)


JPEG_CASES = {
    "grey": save(SMOOTH, "JPEG", quality=95),
    "grey progressive": save(SMOOTH, "JPEG", quality=95, progressive=True),
    "RGB 4:4:4": save(SMOOTH_RGB, "JPEG", quality=95, subsampling=0),
    "RGB 4:2:0": save(SMOOTH_RGB, "JPEG", quality=95, subsampling=2),
    "RGB progressive": save(SMOOTH_RGB, "JPEG", quality=95, progressive=True),
    "RGB without YCbCr": save(SMOOTH_RGB, "JPEG", quality=95, keep_rgb=True),
    "RGB equal channels": save(np.dstack([SMOOTH] * 3), "JPEG", quality=95),
    "RGB equal channels progressive": save(np.dstack([SMOOTH] * 3), "JPEG", quality=95, progressive=True),
    "RGB equal channels without YCbCr": save(np.dstack([SMOOTH] * 3), "JPEG", quality=95, keep_rgb=True),
    "multi-picture": save(SMOOTH, "MPO", quality=95, save_all=True, append_images=[Image.fromarray(255 - SMOOTH)]),
}


@pytest.mark.parametrize("name", JPEG_CASES)
def test_jpeg(name: str):
    """Pillow's pixels to the last level, and near those that were encoded."""
    data = JPEG_CASES[name]
    original = SMOOTH_RGB if name.startswith("RGB") and "equal" not in name else SMOOTH[..., None]
    decoded = decode(data)
    with Image.open(io.BytesIO(data)) as image:
        theirs = np.asarray(image.convert("RGB" if original.shape[2] == 3 else "L")).reshape(original.shape)
    np.testing.assert_array_equal(decoded.pixels, theirs)
    assert np.abs(decoded.pixels.astype(int) - original).mean() < (4 if "4:2:0" in name or "RGB pro" in name else 2)
    assert decoded.keepable == "jpeg"
    kept = simplejpeg.decode_jpeg(data, "GRAY" if original.shape[2] == 1 else "RGB", fastdct=False, fastupsample=False)
    np.testing.assert_array_equal(kept, decoded.pixels)
    assert decoded.header.format == "JPEG"
    assert decoded.header.progressive == ("progressive" in name)


def test_grey_jpeg_that_only_looks_grey_after_the_colour_transform_is_not_kept():
    """Chroma off by one level in a few places: three unequal channels, so colour."""
    nearly = np.dstack([SMOOTH, SMOOTH, SMOOTH])
    nearly[:16, :16, 2] ^= 8
    decoded = decode(save(nearly, "JPEG", quality=100, subsampling=0))
    assert decoded.pixels.shape[2] == 3


@pytest.mark.parametrize(
    ("inks", "colour"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 0, 0), (255, 0, 255)),
        ((0, 0, 200, 0), (255, 255, 55)),
    ],
)
@pytest.mark.parametrize("progressive", [False, True])
def test_cmyk_jpeg_with_adobe_inversion(inks: tuple[int, ...], colour: tuple[int, ...], progressive: bool):
    image = Image.new("CMYK", (2 * 64, 64), inks)
    other = (0, 0, 0, 255) if inks != (0, 0, 0, 255) else (0, 0, 0, 0)
    image.paste(other, (64, 0, 128, 64))  # one colour alone would be no picture
    data = save(image, "JPEG", quality=100, progressive=progressive)
    assert b"Adobe" in data
    decoded = decode(data)
    if len(set(colour)) == 1:
        assert decoded.pixels.shape[2] == 1
    half = decoded.pixels[:, :64].astype(int)
    assert np.abs(half - np.array(colour)[: decoded.pixels.shape[2]]).max() <= 2
    assert decoded.keepable is None
    assert decoded.header.mode == "CMYK"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "pixels"),
    [("JPEG", SMOOTH), ("JPEG", SMOOTH_RGB), ("PNG", GREY16), ("WEBP", RGB8)],
)
def test_exif_orientation(kind: str, pixels: np.ndarray, orientation: int):
    data = save(pixels, kind, exif=exif(orientation), **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(io.BytesIO(data)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    decoded = decode(data)
    np.testing.assert_array_equal(decoded.pixels, upright.reshape(decoded.pixels.shape))
    assert decoded.pixels.shape[:2] == upright.shape[:2]
    assert decoded.header.orientation == read_header(data).orientation == orientation
    assert (decoded.header.height, decoded.header.width) == pixels.shape[:2]
    if kind != "WEBP":
        assert decoded.keepable == (kind.lower() if orientation == 1 else None)


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("pixels", [GREY8, RGB16], ids=["grey8", "rgb16"])
def test_tiff_orientation(pixels: np.ndarray, orientation: int):
    data = tiff(pixels, orientation=orientation)
    upright = TURNS[orientation](pixels)
    check(data, np.atleast_3d(upright))
    header = read_header(data)
    turned = (header.height, header.width)[:: -1 if header.orientation >= 5 else 1]
    assert turned == upright.shape[:2]


@pytest.mark.parametrize("orientation", [3, 6])
def test_16_bit_colour_png_orientation(orientation: int):
    block = chunk(b"eXIf", exif(orientation).tobytes().removeprefix(b"Exif\0\0"))
    check(png(RGB16, 16, 2, block), np.ascontiguousarray(TURNS[orientation](RGB16)))


def test_exif_behind_the_pixels_of_a_png_counts():
    data = png(GREY8, 8, 0, after=chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0")))
    check(data, np.ascontiguousarray(np.rot90(GREY8, -1))[..., None])
    assert decode(data).keepable is None


@pytest.mark.parametrize("value", [0, 9, 700])
def test_impossible_orientation_is_upright(value: int):
    data = save(GREY8, "PNG", exif=exif(value))
    check(data, GREY8[..., None])
    assert read_header(data).orientation == 1


def test_header_fields():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    table = list(range(1, 65))
    data = save(SMOOTH, "JPEG", qtables=[table], icc_profile=profile, progressive=True)
    header = read_header(data)
    assert (header.format, header.mode, header.width, header.height) == ("JPEG", "L", 160, 120)
    assert header.icc_profile
    assert header.progressive
    assert header.quantisation == tuple(table)
    assert header.patient is None
    plain = read_header(save(SMOOTH, "JPEG", quality=75))
    assert not plain.icc_profile
    assert not plain.progressive
    assert plain.quantisation[:3] == (8, 6, 5)  # the example table of the JPEG standard, halved, by rows
    assert read_header(PNG_CASES["RGB 8 bit plain"][0]).quantisation == ()
    assert read_header(save(GREY8, "PNG", icc_profile=profile)).icc_profile


def test_header_of_a_png_does_not_need_its_pixels():
    data = png(GREY16, 16, 0)
    head = data[: data.index(b"IDAT") + 10]
    assert read_header(head) == read_header(data)


def test_dicom():
    pydicom = pytest.importorskip("pydicom", reason="DICOM needs pydicom: pip install 'cxr-stream[dicom]'")
    dataset = pydicom.dataset.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.PatientID = "Q-77"
    dataset.Rows, dataset.Columns = GREY16.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME1"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = GREY16.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    check(buffer.getvalue(), 65535 - GREY16[..., None])
    assert decode(buffer.getvalue()).keepable is None
    header = read_header(buffer.getvalue(), salt="a")
    assert (header.format, header.width, header.height) == ("DICOM", WIDTH, HEIGHT)
    assert header.patient
    assert header.patient != read_header(buffer.getvalue(), salt="b").patient
    with pytest.raises(ImageError, match="max-megapixels"):
        decode(buffer.getvalue(), max_pixels=100)


FORMATS = {
    "JPEG": JPEG_CASES["grey"],
    "JPEG colour": JPEG_CASES["RGB 4:2:0"],
    "JPEG progressive": JPEG_CASES["grey progressive"],
    "JPEG CMYK": save(Image.fromarray(SMOOTH_RGB).convert("CMYK"), "JPEG"),
    "PNG": PNG_CASES["grey 8 bit plain"][0],
    "PNG 16": PNG_CASES["grey 16 bit plain"][0],
    "PNG RGB 16": PNG_CASES["RGB 16 bit plain"][0],
    "PNG palette": PNG_CASES["palette 8 bit plain"][0],
    "PNG interlaced": PNG_CASES["RGB 8 bit interlaced"][0],
    "TIFF": save(GREY8, "TIFF"),
    "TIFF 16": save(GREY16, "TIFF"),
    "TIFF deflate": save(RGB8, "TIFF", compression="tiff_deflate"),
    "TIFF RGB 16": tiff(RGB16),
    "BMP": save(RGB8, "BMP"),
    "WEBP": save(RGB8, "WEBP", lossless=True),
    "WEBP lossy": save(SMOOTH_RGB, "WEBP"),
}


@pytest.mark.parametrize("kept", [0.02, 0.9])
@pytest.mark.parametrize("name", FORMATS)
def test_truncated_files_are_rejected(name: str, kept: float):
    data = FORMATS[name]
    decode(data)
    with pytest.raises(ImageError, match=r"\w{4}"):
        decode(data[: int(len(data) * kept)])


@pytest.mark.parametrize(
    ("name", "missing"),
    [(name, missing) for name in FORMATS if "PNG" in name or "JPEG" in name for missing in (1, 12)
     if missing > 2 or name not in ("JPEG", "JPEG colour")],  # those are mended, see test_mend
)  # fmt: skip
def test_a_missing_end_is_rejected(name: str, missing: int):
    with pytest.raises(ImageError, match=r"truncated PNG|damaged JPEG"):
        decode(FORMATS[name][:-missing])


NOISY = np.clip(SMOOTH_RGB + RNG.normal(0, 8, SMOOTH_RGB.shape), 0, 255).astype(np.uint8)
NOISY_JPEGS = {
    "grey": save(NOISY[..., 0], "JPEG"),
    "grey progressive": save(NOISY[..., 0], "JPEG", progressive=True),
    "RGB": save(NOISY, "JPEG"),
    "RGB progressive": save(NOISY, "JPEG", progressive=True),
    "CMYK": save(Image.fromarray(NOISY).convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("fill", [0x00, 0x55, 0xFF])
@pytest.mark.parametrize("name", NOISY_JPEGS)
def test_damaged_stretch_of_entropy_data_is_rejected(name: str, fill: int):
    """In an early scan and with the noise of a real image: a JPEG has no checksum, so a smooth one may fall into step
    again, and the refining scans of a progressive one take any bits."""
    data = bytearray(NOISY_JPEGS[name])
    decode(bytes(data))
    middle = int(len(data) * 0.35)
    data[middle : middle + 60] = bytes([fill]) * 60
    with pytest.raises(ImageError, match="damaged JPEG: "):
        decode(bytes(data))


@pytest.mark.parametrize("name", [name for name in FORMATS if "PNG" in name])
@pytest.mark.parametrize("part", [b"IDAT", b"IEND"])
def test_bad_crc_of_a_png_is_rejected(name: str, part: bytes):
    data = bytearray(FORMATS[name])
    at = data.index(part) - 4
    (length,) = struct.unpack_from(">I", data, at)
    data[at + 8 + length] ^= 1  # the CRC itself: the pixels are whole
    with pytest.raises(ImageError, match=re.escape(f"the {part.decode()} chunk at byte {at} does not match its CRC")):
        decode(bytes(data))


def test_png_whose_pixel_stream_is_too_short_is_rejected():
    rows = b"".join(b"\0" + row for row in png_rows(GREY8, 8))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows[: len(rows) // 2]))
    with pytest.raises(ImageError, match="damaged PNG"):
        decode(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))


MULTI_PAGE = save(GREY8, "TIFF", save_all=True, append_images=[Image.fromarray(GREY8)])
BAD_SECOND_PAGE = bytearray(save(GREY8, "TIFF"))  # its directory says that another follows, and that one is empty
(_at,) = struct.unpack_from("<I", BAD_SECOND_PAGE, 4)
(_entries,) = struct.unpack_from("<H", BAD_SECOND_PAGE, _at)
struct.pack_into("<I", BAD_SECOND_PAGE, _at + 2 + 12 * _entries, len(BAD_SECOND_PAGE))
BAD_SECOND_PAGE += bytes(6)

REJECTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "text": (b"path,label\na.png,NORMAL\n", "supported format; it begins with b'path,lab'"),
    "html": (b"<!DOCTYPE html><html></html>", "supported format"),
    "GIF": (save(GREY8, "GIF"), "supported format; it begins with b'GIF8"),
    "only a signature": (b"\x89PNG\r\n\x1a\n", "truncated|damaged|supported"),
    "float TIFF": (tiff(GREY8.astype(np.float32)), "TIFF of floating-point numbers is not supported"),
    "32-bit TIFF": (tiff(GREY8.astype(np.int32)), "TIFF of signed whole numbers"),
    "unsigned 32-bit TIFF": (tiff(GREY8.astype(np.uint32)), "TIFF of mode I is not supported; expected 8 or 16"),
    "signed 8-bit TIFF": (tiff(GREY8.astype(np.int8)), "TIFF of signed whole numbers is not supported"),
    "signed 8-bit colour TIFF": (tiff(RGB8.astype(np.int8)), "TIFF of 8 bits a sample, 3 .* signed whole"),
    "10-bit TIFF": (tiff(GREY16, bits=10), "TIFF of 10 bits a sample, 1 samples a pixel, .* is not supported"),
    "14-bit TIFF": (tiff(GREY16, bits=14), "TIFF of 14 bits a sample"),
    "12-bit planes": (tiff(RGB16, bits=12, planes=2), "TIFF of 12 bits a sample, 3 .* configuration 2, unsigned"),
    "16-bit grey with alpha": (tiff(np.dstack([GREY16, ALPHA16]), extra=2), "TIFF of 16 bits a sample, 2 samples"),
    "TIFF without a directory": (b"II*\0\x08\0\0\0", "damaged TIFF: its directory cannot be read"),
    "JPEG 2000": (save(GREY8, "JPEG2000"), "JPEG 2000 outside DICOM is not a supported format; it begins with"),
    "12-bit JPEG": (JPEG_CASES["grey"].replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x0c"), "or one that is not"),
    "signed 16-bit TIFF": (tiff(GREY8.astype(np.int16)), "TIFF of signed whole numbers"),
    "multi-page TIFF": (MULTI_PAGE, "TIFF with 2 pages; expected one"),
    "TIFF whose second page is empty": (bytes(BAD_SECOND_PAGE), "damaged TIFF: Missing dimensions"),
    "animated PNG": (save(RGB8, "PNG", save_all=True, append_images=[Image.fromarray(255 - RGB8)]), "PNG with 2 pages"),
    "animated WebP": (save(RGB8, "WEBP", save_all=True, append_images=[Image.fromarray(255 - RGB8)]), "WEBP with 2"),
    "16-bit planes": (tiff(RGB16, planes=2), "planar configuration 2"),
    "16-bit CMYK": (tiff(np.dstack([RGB16, ALPHA16]), photometric=5), "photometric interpretation 5"),
    "16-bit premultiplied": (tiff(np.dstack([RGB16, ALPHA16]), extra=1), r"extra samples \(1,\)"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as decode.py itself asks for; pytest resets filters
@pytest.mark.parametrize("name", REJECTS)
def test_rejects(name: str):
    data, reason = REJECTS[name]
    with pytest.raises(ImageError, match=reason):
        decode(data)


def huge(kind: str) -> bytes:
    if kind == "PNG":
        return (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", b"")
        )
    data = bytearray(save(GREY8, kind))
    if kind == "BMP":
        struct.pack_into("<ii", data, 18, 60000, 60000)
    else:
        (at,) = struct.unpack_from("<I", data, 4)
        for entry in range(at + 2, at + 2 + 12 * data[at], 12):
            if struct.unpack_from("<H", data, entry)[0] in (256, 257):
                struct.pack_into("<HII", data, entry + 2, 4, 1, 60000)
    return bytes(data)


@pytest.mark.parametrize("read", [read_header, decode])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_bomb_is_refused_before_its_pixels_have_a_place(kind: str, read):
    """3.6 gigabytes of them; the process may have 300 MB more than it has now."""
    data = huge(kind)
    used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20, limits[1]))
    try:
        with pytest.raises(
            ImageError, match=r"60000 x 60000 is 3600 million pixels; the limit is 100 .*--max-megapixels"
        ):
            read(data)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_the_limit_is_settable():
    assert DEFAULT_MAX_PIXELS == 100_000_000
    data = PNG_CASES["grey 8 bit plain"][0]
    decode(data, max_pixels=WIDTH * HEIGHT)
    with pytest.raises(ImageError, match=f"{WIDTH} x {HEIGHT}"):
        decode(data, max_pixels=WIDTH * HEIGHT - 1)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", FORMATS)
def test_damage_anywhere_is_an_image_error_or_nothing(name: str):
    """Whatever bytes are hit, no other exception comes out, and a header that can be read stays within its limit."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for trial in range(40):
        data = bytearray(FORMATS[name])
        reach = len(data) if trial % 2 else min(200, len(data))
        for at in rng.integers(0, reach, rng.integers(1, 6)):
            data[at] = rng.integers(0, 256)
        if trial % 5 == 0:
            del data[rng.integers(1, len(data)) :]
        for read in (read_header, decode):
            try:
                result = read(bytes(data), max_pixels=10**6)
            except ImageError as error:
                assert str(error)
            else:
                header = getattr(result, "header", result)
                assert 0 < header.width * header.height <= 10**6


def test_no_warning_escapes(tmp_path: Path):
    """Pillow warns of the broken EXIF in this file; decoding it prints nothing."""
    broken = b"Exif\0\0II*\0\x08\0\0\0\x09\0" + struct.pack("<HHII", ORIENTATION, 3, 400, 900)
    data = save(SMOOTH, "JPEG", exif=broken)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(data)).getexif()
    assert caught, "this file no longer shows what the test is about"
    (tmp_path / "broken.jpg").write_bytes(data)
    code = (
        "import sys; from tfrecords.images.decode import decode; "
        "print(decode(open(sys.argv[1], 'rb').read()).pixels.shape)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always::UserWarning", "-c", code, str(tmp_path / "broken.jpg")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert (done.stdout.strip(), done.stderr) == ("(120, 160, 1)", "")


def test_real_xrays_decode_to_the_pixels_of_pillow(fullres):
    paths = sorted(fullres.rglob("*.jpeg"))
    assert len(paths) == 185
    colour = 0
    for path in paths:
        data = path.read_bytes()
        decoded = decode(data)
        with Image.open(path) as image:
            colour += image.mode == "RGB"
            theirs = np.asarray(image.convert("RGB"))[..., :1]  # these X-rays are grey, whatever their files say
        np.testing.assert_array_equal(decoded.pixels, theirs, err_msg=path.name)
        assert decoded.keepable == "jpeg", path.name
        assert decoded.header == read_header(data[: 1 << 16]), path.name
    assert colour

"""Image files of any supported format to pixels, by content and never by extension.

JPEG (baseline, progressive, grey, colour, CMYK), PNG (8 and 16 bit, grey, colour, alpha, palette), TIFF,
BMP, WebP and DICOM become uint8 or uint16 [height, width, channels], 0 black. EXIF orientation is applied,
alpha is composited over black, and three equal channels become one.
"""

from __future__ import annotations

import dataclasses
import io
import warnings
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from beam_jobs import dicom
from tfrecords import codec
from tfrecords.errors import ImageError

Image.MAX_IMAGE_PIXELS = None  # our own limit is settable, and checked before a pixel is decoded
warnings.filterwarnings("ignore", module=r"PIL\.")  # notes on metadata that is not used here

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
"""What Pillow may recognise, in its own names; DICOM goes through pydicom."""

DEFAULT_MAX_PIXELS = 100_000_000
"""Largest width x height that is decoded: about six times the largest chest X-ray detectors."""

_EXIF_ORIENTATION = 0x0112
_TIFF_BITS_PER_SAMPLE = 258
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B")
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
_GREY_MODES = ("L", "LA", "La", "1", *_SIXTEEN_BIT_MODES)


@dataclasses.dataclass(frozen=True)
class ImageHeader:
    """What can be known of an image without decoding its pixels.

    Attributes:
      format: `JPEG`, `PNG`, `TIFF`, `BMP`, `WEBP` or `DICOM`.
      mode: Pillow's mode or DICOM's photometric interpretation.
      width, height: pixels as stored, before orientation is applied.
      bit_depth: 8 or 16, of the pixels that `decode` returns.
      orientation: EXIF orientation, 1 to 8; 1 is upright.
      progressive: a progressive JPEG.
      icc_profile: the file carries an ICC profile.
      quantisation: the luma quantisation table of a JPEG, in zigzag order, else empty.
      patient: salted hash of DICOM's patient id, else None.
    """

    format: str
    mode: str
    width: int
    height: int
    bit_depth: int
    orientation: int = 1
    progressive: bool = False
    icc_profile: bool = False
    quantisation: tuple[int, ...] = ()
    patient: str | None = None


@dataclasses.dataclass(frozen=True)
class DecodedImage:
    """Pixels, and the source's own bytes where they may be stored instead.

    Attributes:
      pixels: uint8 or uint16 [height, width, 1 or 3].
      header: of the file.
      keepable: `jpeg` or `png` where the file itself, decoded by any exact decoder to the number of
        channels of `pixels`, gives `pixels`; None where it does not.
    """

    pixels: np.ndarray
    header: ImageHeader
    keepable: str | None


def read_header(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS, salt: str = "") -> ImageHeader:
    """Reads what precedes the pixels.

    Args:
      data: the file.
      max_pixels: limit on width x height.
      salt: for the hash of a DICOM patient id.

    Raises:
      ImageError: not an image of a supported format, damaged, or larger than `max_pixels`.
      MissingExtraError: a DICOM file, and pydicom is not installed.
    """
    if dicom.is_dicom(data[:256]):
        return _dicom_header(data, max_pixels, salt)
    with _open(data) as image:
        return _pillow_header(image, data, max_pixels)


def decode(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> DecodedImage:
    """Decodes one image file wholly, and so verifies it.

    Args:
      data: the file.
      max_pixels: limit on width x height, checked before decoding.

    Raises:
      ImageError: not an image of a supported format, damaged, truncated, or larger than `max_pixels`.
      MissingExtraError: a DICOM file, and a package that it needs is not installed.
    """
    if dicom.is_dicom(data[:256]):
        header = _dicom_header(data, max_pixels, salt="")
        return DecodedImage(_merge_equal_channels(dicom.read_dicom_pixels(data, max_pixels)), header, None)
    with _open(data) as image:
        header = _pillow_header(image, data, max_pixels)
        if header.format == "JPEG" and header.mode in ("L", "RGB"):
            pixels = codec.decode_jpeg(data, channels=1 if header.mode == "L" else 3)
        elif header.bit_depth == 16 and header.mode not in _SIXTEEN_BIT_MODES:
            _load(image)  # Pillow verifies what it would cut to 8 bits; OpenCV keeps the depth but verifies little
            pixels = _decode_deep_colour(data)
        else:
            pixels = _pillow_pixels(image)
    merged = _merge_equal_channels(pixels)
    upright = _apply_orientation(merged, header.orientation)
    return DecodedImage(upright, header, _keepable(data, header, merged, pixels.shape[2]))


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageError("the file is empty")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(f"not an image of a supported format; it begins with {data[:8]!r}") from error
    except Exception as error:  # Pillow's plug-ins raise what they meet: struct.error, SyntaxError, OSError, ...
        raise ImageError(f"damaged header: {error}") from error


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:  # as above
        raise ImageError(f"damaged {image.format}: {error}") from error


def _pillow_header(image: Image.Image, data: bytes, max_pixels: int) -> ImageHeader:
    _check_pixels(image.width, image.height, max_pixels)
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    if kind != "JPEG" and getattr(image, "n_frames", 1) > 1:
        raise ImageError(f"{kind} with {image.n_frames} pages; expected one")  # type: ignore[attr-defined]
    if image.mode not in _GREY_MODES + _COLOUR_MODES:
        raise ImageError(f"{kind} of mode {image.mode}; expected 8 or 16 bits a channel")
    try:
        orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about the pixels
        orientation = 1
    tables = getattr(image, "quantization", None) or {}
    return ImageHeader(
        kind,
        image.mode,
        image.width,
        image.height,
        16 if image.mode in _SIXTEEN_BIT_MODES or _has_deep_colour(image, data) else 8,
        # Pillow turns a TIFF upright itself when it loads it
        orientation if 1 <= orientation <= 8 and kind != "TIFF" else 1,
        bool(image.info.get("progressive")),
        bool(image.info.get("icc_profile")),
        tuple(tables.get(0, ())),
    )


def _dicom_header(data: bytes, max_pixels: int, salt: str) -> ImageHeader:
    header = dicom.read_dicom_header(data, salt)
    _check_pixels(header.width, header.height, max_pixels)
    return ImageHeader(
        "DICOM", header.photometric, header.width, header.height, header.bits, patient=header.patient_key
    )


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{width} x {height} is {width * height / 1e6:.0f} million pixels; the limit is {max_pixels / 1e6:g} "
            "million (--max-megapixels)"
        )
    if width < 1 or height < 1:
        raise ImageError(f"{width} x {height} pixels")


def _has_deep_colour(image: Image.Image, data: bytes) -> bool:
    """Whether a colour file has 16 bits a channel, which Pillow would cut to 8."""
    if image.format == "PNG":
        return data[24] == 16
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        return 16 in (tags.get(_TIFF_BITS_PER_SAMPLE) or ())
    return False


def _decode_deep_colour(data: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ImageError("a colour file of 16 bits a channel that cannot be decoded")
    if pixels.ndim == 2:
        return pixels[..., None]
    if pixels.shape[2] == 4:
        pixels = _over_black(pixels[..., :3], pixels[..., 3:])
    return np.ascontiguousarray(pixels[..., ::-1])


def _pillow_pixels(image: Image.Image) -> np.ndarray:
    _load(image)
    if image.mode in _SIXTEEN_BIT_MODES:
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in ("LA", "La"):
        values = np.asarray(image.convert("LA"))
        return _over_black(values[..., :1], values[..., 1:])
    if image.has_transparency_data and image.mode in ("L", "1", "P", "PA", "RGB", "RGBA"):
        values = np.asarray(image.convert("RGBA"))
        return _over_black(values[..., :3], values[..., 3:])
    if image.mode in ("L", "1"):
        return np.asarray(image.convert("L"))[..., None]
    return np.asarray(image.convert("RGB"))


def _over_black(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composites over black: colour x alpha, rounded, in the depth of the input."""
    full = int(np.iinfo(colour.dtype).max)
    return ((colour.astype(np.uint32) * alpha + full // 2) // full).astype(colour.dtype)


def _merge_equal_channels(pixels: np.ndarray) -> np.ndarray:
    """One channel where three are equal everywhere."""
    if (
        pixels.shape[2] == 3
        and np.array_equal(pixels[..., 0], pixels[..., 1])
        and np.array_equal(pixels[..., 1], pixels[..., 2])
    ):
        return np.ascontiguousarray(pixels[..., :1])
    return pixels


def _apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns pixels upright by the EXIF orientation (Exif 2.32, tag 274)."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _keepable(data: bytes, header: ImageHeader, merged: np.ndarray, stored_channels: int) -> str | None:
    if header.orientation != 1:
        return None
    as_stored = merged.shape[2] == stored_channels
    if header.format == "JPEG" and header.mode in ("L", "RGB"):
        return "jpeg" if as_stored or np.array_equal(codec.decode_jpeg(data, 1), merged) else None
    # bit depth and colour type of the IHDR chunk: grey or RGB; a tRNS chunk would be alpha
    if header.format == "PNG" and as_stored and data[24] in (8, 16) and data[25] in (0, 2):
        return "png" if b"tRNS" not in data[: data.find(b"IDAT")] else None
    return None

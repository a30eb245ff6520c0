"""Image files of any supported format to pixels, by content and never by extension.

JPEG (baseline, progressive, grey, colour, CMYK), PNG (8 and 16 bit, grey, colour, alpha, palette), TIFF,
BMP, WebP and DICOM become uint8 or uint16 [height, width, channels], 0 black. EXIF orientation is applied,
alpha is composited over black, and three equal channels become one. What has a wrong or unsupported form, or nothing in
it (`emptiness`), is refused and never guessed at; a JPEG with a fault around the image data is mended (`mend`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from cxr.errors import ImageError
from tfrecords.images import codec, dicom, emptiness, mend, scale, tiff

Image.MAX_IMAGE_PIXELS = None  # our own limit is settable, and checked before a pixel is decoded
warnings.filterwarnings("ignore", module=r"PIL\.")  # notes on metadata that is not used here

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
"""What Pillow may recognise, in its own names; DICOM goes through pydicom."""

DEFAULT_MAX_PIXELS = 100_000_000
"""Largest width x height that is decoded: about six times the largest chest X-ray detectors."""

_EXIF_ORIENTATION = 0x0112
_BMP_RLE4 = 2
_OTHER_FORMATS = {  # how files begin that are found among X-rays and are not supported
    b"GIF8": "GIF",
    b"%PDF": "PDF",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000 outside DICOM",
    b"\xff\x4f\xff\x51": "JPEG 2000 outside DICOM",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
}
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
      quantisation: the luma quantisation table of a JPEG, row by row, else empty.
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
      bits_in_use: bits that hold the highest value stored, up to 16, of an image with 16 bits a sample whose file does
        not state its scale; None where the file does (8 bits, 12-bit TIFF, DICOM with a depth or a window).
      repaired: what was mended of the file, in words; empty where nothing was.
    """

    pixels: np.ndarray
    header: ImageHeader
    keepable: str | None
    bits_in_use: int | None = None
    repaired: str = ""


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


def decode(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS, bits: int | None = None) -> DecodedImage:
    """Decodes one image file wholly, and so verifies it.

    Args:
      data: the file.
      max_pixels: limit on width x height, checked before decoding.
      bits: the scale of the data set (`scale.choose_scale`): an image whose file does not state its scale is taken to
        have so many bits, and brought to 16. None leaves it as it is.

    Raises:
      ImageError: not an image of a supported format, damaged, truncated, larger than `max_pixels`, with nothing in
        it, or with values beyond `bits`.
      MissingExtraError: a DICOM file, and a package that it needs is not installed.
      ValueError: `bits` is not 8 to 16.
    """
    decoded = _decode_or_mend(data, max_pixels, bits)
    emptiness.check(decoded.pixels, decoded.bits_in_use if bits in (None, scale.FULL) else None)
    return decoded


def count_bits_in_use(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> int | None:
    """`DecodedImage.bits_in_use` of a file, also where `decode` would find it too dark for want of a scale.

    Args and errors as `decode`. A file whose header says 8 bits need not be decoded to know that the answer is None.
    """
    if read_header(data, max_pixels).bit_depth == 8:
        return None
    return _decode_or_mend(data, max_pixels, None).bits_in_use


def _decode_or_mend(data: bytes, max_pixels: int, bits: int | None) -> DecodedImage:
    if dicom.is_dicom(data[:256]):
        header = _dicom_header(data, max_pixels, salt="")
        image = dicom.read_dicom(data, bits)
        return DecodedImage(_merge_equal_channels(image.pixels), header, None, image.bits_in_use, image.repaired)
    try:
        return _decode_file(data, max_pixels, bits)
    except ImageError:
        mended = mend.mend_jpeg(data) if data.startswith(b"\xff\xd8") else None
        if mended is None:
            raise
    decoded = _decode_file(mended[0], max_pixels, bits)
    return dataclasses.replace(decoded, keepable=None, repaired=mended[1])


def _decode_file(data: bytes, max_pixels: int, bits: int | None) -> DecodedImage:
    """A file of any format but DICOM."""
    with _open(data) as image:
        header = _pillow_header(image, data, max_pixels)
        chunks = _verify_png(data) if header.format == "PNG" else {}
        if "exif" not in image.info and b"eXIf" in chunks:  # behind the pixels, where the header does not look
            late = bytes(chunks[b"eXIf"])
            header = dataclasses.replace(header, orientation=_read_orientation(lambda: _parse_exif(late)))
        transparent = bytes(chunks.get(b"tRNS", b""))
        stored = _decode_stored(image, header, data, transparent)
        states_scale = header.bit_depth == 8 or tiff.bits(image) == (12,)
        in_use = None if states_scale else scale.count_bits(0, int(stored.max()))
        pixels = stored if in_use is None or bits is None else _scale(stored, bits, in_use)
        if header.mode in _SIXTEEN_BIT_MODES and tiff.white_is_zero(image):  # only now: the scale is of what is stored
            pixels = 65535 - pixels
    merged = _merge_equal_channels(pixels)
    as_stored = pixels is stored and not transparent
    keepable = _keepable(data, header, merged, pixels.shape[2]) if as_stored else None
    return DecodedImage(_apply_orientation(merged, header.orientation), header, keepable, in_use)


def _decode_stored(image: Image.Image, header: ImageHeader, data: bytes, transparent: bytes) -> np.ndarray:
    """Pixels before orientation and scale, [height, width, 1 or 3]; `transparent` is what tRNS of a PNG holds."""
    if header.format == "JPEG" and header.mode in ("L", "RGB"):
        return codec.decode_jpeg(data, channels=1 if header.mode == "L" else 3)
    if header.format == "PNG":
        return _decode_png(data, transparent)
    if header.bit_depth == 16 and header.mode not in _SIXTEEN_BIT_MODES:
        return _decode_deep_tiff(image, data)
    return _pillow_pixels(image, data)


def _scale(stored: np.ndarray, bits: int, in_use: int) -> np.ndarray:
    scale.check_bits(bits, in_use)
    return scale.stretch(stored, bits)


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageError("the file is empty")
    try:
        with _guarded("header"):
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(_name_format(data)) from error


def _name_format(data: bytes) -> str:
    """What a file is that Pillow does not recognise, as far as its beginning tells."""
    if data.startswith(tiff.STARTS):
        return tiff.describe_unknown(data)
    if data.startswith(b"\xff\xd8"):
        return "damaged JPEG, or one that is not supported; expected baseline or progressive, with 8 bits a sample"
    names = [name for start, name in _OTHER_FORMATS.items() if data.startswith(start)]
    what = f"{names[0]} is not a supported format" if names else "not an image of a supported format"
    return f"{what}; it begins with {data[:8]!r}; expected JPEG, PNG, TIFF, BMP, WebP or DICOM"


@contextlib.contextmanager
def _guarded(part: str) -> Iterator[None]:
    """Turns what Pillow's plug-ins raise (struct.error, SyntaxError, OSError, ...) into an ImageError."""
    try:
        yield
    except UnidentifiedImageError:
        raise
    except Exception as error:
        raise ImageError(f"damaged {part}: {error}") from error


def _load(image: Image.Image) -> None:
    with _guarded(str(image.format)):
        image.load()


def _pillow_header(image: Image.Image, data: bytes, max_pixels: int) -> ImageHeader:
    _check_pixels(image.width, image.height, max_pixels)
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    with _guarded(kind):  # a TIFF's next page is looked up only now
        frames = 1 if kind == "JPEG" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageError(f"{kind} with {frames} pages; expected one")
    tiff.check_samples(image)
    if kind == "BMP" and image.info.get("compression") == _BMP_RLE4:  # Pillow 12 misreads stretches of odd length
        raise ImageError("BMP with 4-bit run-length encoding is not supported; export it as PNG or uncompressed")
    if image.mode not in _GREY_MODES + _COLOUR_MODES:
        raise ImageError(f"{kind} of mode {image.mode} is not supported; expected 8 or 16 bits a channel")
    tables = getattr(image, "quantization", None) or {}
    return ImageHeader(
        kind,
        image.mode,
        image.width,
        image.height,
        16 if image.mode in _SIXTEEN_BIT_MODES or _has_deep_colour(image, data) else 8,
        # Pillow turns a TIFF upright itself, size and pixels. The base class's `getexif`, because a PNG's own
        # decodes the pixels to see whether EXIF stands behind them.
        1 if kind == "TIFF" else _read_orientation(lambda: Image.Image.getexif(image)),
        bool(image.info.get("progressive")),
        bool(image.info.get("icc_profile")),
        tuple(tables.get(0, ())),
    )


def _read_orientation(read_exif: Callable[[], Image.Exif]) -> int:
    try:
        orientation = int(read_exif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about the pixels
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _parse_exif(data: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(data)
    return exif


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
    return 16 in tiff.bits(image)


def _verify_png(data: bytes) -> dict[bytes, memoryview]:
    """The chunks of a PNG file by kind, the last of each, every CRC checked; Pillow checks none behind the header."""
    chunks: dict[bytes, memoryview] = {}
    view = memoryview(data)
    start = len(codec.PNG_START)
    while b"IEND" not in chunks:
        if start + 12 > len(data):
            raise ImageError(f"truncated PNG: it ends at byte {len(data)} without an IEND chunk")
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            raise ImageError(f"truncated PNG: its {_show(kind)} chunk needs {end} bytes, the file has {len(data)}")
        if zlib.crc32(view[start + 4 : end - 4]).to_bytes(4, "big") != view[end - 4 : end]:
            raise ImageError(f"damaged PNG: the {_show(kind)} chunk at byte {start} does not match its CRC")
        chunks[kind] = view[start + 8 : end - 4]
        start = end
    return chunks


def _show(kind: bytes) -> str:
    return kind.decode("ascii", "backslashreplace")


def _decode_png(data: bytes, transparent: bytes) -> np.ndarray:
    """Decodes with OpenCV, which keeps 16 bits and, unlike Pillow, takes no pixel stream that is too short."""
    pixels = _decode_unchanged(data, "PNG")
    depth, colour_type = data[24], data[25]
    if colour_type == 0 and transparent:  # the one kind of transparency that OpenCV passes over
        level = int.from_bytes(transparent[:2], "big") * (255 // (2**depth - 1) if depth < 8 else 1)
        pixels = np.where(pixels == level, pixels.dtype.type(0), pixels)
    return pixels


def _decode_deep_tiff(image: Image.Image, data: bytes) -> np.ndarray:
    tiff.check_deep_colour(image)
    _load(image)  # Pillow verifies what it would cut to 8 bits; OpenCV keeps the depth but verifies little
    pixels = _decode_unchanged(data, "TIFF")
    if pixels.dtype != np.uint16:
        raise ImageError(f"TIFF of 16 bits a channel that OpenCV decodes to {pixels.dtype}")
    return pixels


def _decode_unchanged(data: bytes, kind: str) -> np.ndarray:
    """OpenCV's pixels in their own depth, as [height, width, 1 or 3], alpha over black."""
    pixels = codec.decode_unchanged(data, kind)
    if pixels.shape[2] == 4:
        pixels = _over_black(pixels[..., :3], pixels[..., 3:])
    return np.ascontiguousarray(pixels[..., ::-1])


def _pillow_pixels(image: Image.Image, data: bytes) -> np.ndarray:
    if image.format == "JPEG":
        codec.decode_jpeg(data, 4)  # Pillow reads CMYK, but takes a damaged stretch without a word
    _load(image)
    if image.mode in _SIXTEEN_BIT_MODES:
        return _deep_grey_tiff(image)
    if image.mode in ("LA", "La"):
        values = np.asarray(image.convert("LA"))
        return _over_black(values[..., :1], values[..., 1:])
    if image.mode in ("PA", "RGBA"):
        values = np.asarray(image.convert("RGBA"))
        return _over_black(values[..., :3], values[..., 3:])
    if image.mode in ("L", "1"):
        return np.asarray(image.convert("L"))[..., None]
    return np.asarray(image.convert("RGB"))


def _deep_grey_tiff(image: Image.Image) -> np.ndarray:
    values: np.ndarray = np.asarray(image).astype(np.uint16)[..., None]
    return values << 4 | values >> 8 if tiff.bits(image) == (12,) else values  # x 65535 / 4095, rounded


def _over_black(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composites over black: colour x alpha, rounded, in the depth of the input; refuses what is all transparent."""
    emptiness.check_alpha(alpha)
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
        return "jpeg" if as_stored or _luma_is_grey(data, merged) else None
    # bit depth and colour type of the IHDR chunk: grey or RGB
    return "png" if header.format == "PNG" and as_stored and data[24] in (8, 16) and data[25] in (0, 2) else None


def _luma_is_grey(data: bytes, grey: np.ndarray) -> bool:
    """Whether the luma plane of a colour JPEG with three equal channels is that channel.

    In YCbCr it always is: red grows with Cr, blue with Cb, and green falls with both, so that they can only
    be equal where both are neutral, and then each is the luma. What is stored as RGB is decoded to see.
    """
    return simplejpeg.decode_jpeg_header(data)[2] == "YCbCr" or np.array_equal(codec.decode_jpeg(data, 1), grey)

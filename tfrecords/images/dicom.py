"""DICOM radiographs: geometry, a patient key that hides the patient, and pixels as they are meant to be seen.

pydicom reads the file and picks the decoder of the transfer syntax: RLE, JPEG (baseline, extended, lossless), JPEG-LS
and JPEG 2000. Stored values then go through the greyscale pipeline of PS3.3 C.11, each step a function of the stored
value alone, so that it is computed once for every possible value and looked up for the image:

    stored value -> modality LUT, or rescale slope and intercept -> VOI LUT, or window -> inverted for MONOCHROME1

A VOI LUT goes before a window, and the first that shows the data counts: files carry windows of 8 bits on 12-bit data,
or of another image, that leave nothing to be seen. Without one, the whole range that `BitsStored` can hold, taken
through the rescale, is mapped to black..white: one scale for every image of a device, which no single bright or dark
pixel moves. Where 16 bits are stored, a `LargestImagePixelValue` of 4095 or the like says how many of them are meant;
any other only repeats what the pixels say (PS3.3 C.7.6.3.1.1), and is not heard. Pixel padding is left alone; it goes
through the pipeline like any other stored value.

Elements that are there and empty are absent ones, and so are sequences whose first item holds no lookup table.

Only the elements named below are parsed, so that no name, birth date or identifier can get into a message.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr.errors import CxrError, ImageError, MissingExtraError
from cxr.extras import needing
from tfrecords.images import emptiness, scale

GEOMETRY = [
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
]
IMAGE_LIMITS = ("SmallestImagePixelValue", "LargestImagePixelValue")
WINDOWING = ("WindowCenter", "WindowWidth", "VOILUTFunction")
SEGMENTED = ("SegmentedRed", "SegmentedGreen", "SegmentedBlue")
RENDERING = [
    *IMAGE_LIMITS,
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", *WINDOWING),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *(f"{kind}PaletteColorLookupTableData" for kind in ("Red", "Green", "Blue", *SEGMENTED)),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData"),
]
GREYSCALE = ("MONOCHROME1", "MONOCHROME2")
SAMPLES = dict.fromkeys((*GREYSCALE, "PALETTE COLOR"), 1)  # by photometric interpretation
SAMPLES |= dict.fromkeys(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"), 3)
FIRST_ELEMENTS = tuple(  # with which a file without preamble begins: the file meta group, or the start of group 0008
    group.to_bytes(2, "little") + element.to_bytes(2, "little")
    for group, elements in ((2, (0, 1, 2, 0x10)), (8, (0, 1, 5, 8, 0x12, 0x16, 0x18)))
    for element in elements
)
FIRST_VRS = (b"UL", b"OB", b"UI", b"CS", b"DA")
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
EIGHT_BIT_WINDOWS = frozenset(f"window {c:g} / {w:g}" for c in (127, 127.5, 128) for w in (255, 256))

LEAST_SHOWN = 0.05
"""Share of the pixels that a window must put between black and white, to be used. With a window of half the range it is
0.26 or more of each of 585 real X-rays, with a quarter 0.11 or more, and in pydicom's CT slices that show a body 0.1 or
more. With the window of 8 bits on 12-bit data it is up to 0.32, which is why that one is known by its numbers: half of
the pixels of each X-ray lie far above it."""


@dataclass(frozen=True)
class DicomHeader:
    """What a DICOM file says of its image.

    Attributes:
      width, height: pixels.
      channels: 1 for greyscale, 3 for colour.
      bits: 8 or 16, the depth of what `read_dicom_pixels` returns for this file.
      frames: number of frames, 1 for a radiograph.
      patient_key: `dicom-` and 16 hexadecimal digits, or None where the file names no patient.
      photometric: photometric interpretation, such as `MONOCHROME2`.
      transfer_syntax: UID of the encoding, such as `1.2.840.10008.1.2.4.90`.
    """

    width: int
    height: int
    channels: int
    bits: int
    frames: int
    patient_key: str | None
    photometric: str
    transfer_syntax: str


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with `head` (132 bytes or more) is DICOM, judged by its content.

    True for the preamble and `DICM` of PS3.10 7.1, and for files without a preamble whose first element is one with
    which a little-endian file begins.
    """
    if head[128:132] == b"DICM":
        return True
    if head[:4] not in FIRST_ELEMENTS:
        return False
    return head[4:6] in FIRST_VRS or (head[6:8] == b"\0\0" and 0 < int.from_bytes(head[4:6], "little") <= 1024)


def read_dicom_header(data: bytes, salt: str) -> DicomHeader:
    """Reads the header of a DICOM file, without its pixels.

    Args:
      data: the file; its first part will do, if it reaches as far as the pixel data.
      salt: key of the HMAC-SHA256 (RFC 2104) that turns the patient id into `patient_key`; the same id gives the same
        key under the same salt, and nobody without the salt can find the id by trying.

    Raises:
      ImageError: not DICOM, no image in it, or of a kind that `read_dicom_pixels` cannot decode.
      MissingExtraError: pydicom is not installed.
    """
    with _guarded("the DICOM header cannot be read"):
        dataset = _parse(data, [*GEOMETRY, "PatientID"], stop_before_pixels=True)
        return _describe(dataset, _patient_key(dataset, salt))


@dataclass(frozen=True)
class DicomImage:
    """The image of a DICOM file.

    Attributes:
      pixels: [height, width, channels]. Greyscale: one channel, 0 is black and full scale is white, uint8 up to 255
        where `BitsStored` is 8 or less, else uint16 up to 65535. Colour: RGB, uint8 up to 255.
      bits_in_use: see `tfrecords.images.decode.DecodedImage`.
      repaired: which windows and lookup tables were not used, because they show nothing; else empty.
    """

    pixels: np.ndarray
    bits_in_use: int | None = None
    repaired: str = ""


def read_dicom_pixels(data: bytes) -> np.ndarray:
    """The pixels of `read_dicom`."""
    return read_dicom(data).pixels


def read_dicom(data: bytes, bits: int | None = None) -> DicomImage:
    """Decodes the image of a DICOM file and renders it for display.

    Args:
      data: the whole file.
      bits: 8 to 16: bits that are meant in a file that stores 16 and says nothing else, see `tfrecords.images.scale`;
        None takes all 16.

    Raises:
      ImageError: not DICOM, truncated, several frames, of a kind that is not supported, or with values beyond `bits`.
      MissingExtraError: pydicom, or the decoder of this transfer syntax, is not installed.
    """
    with _guarded("the DICOM pixels cannot be decoded"):
        header = _describe(_parse(data, GEOMETRY, stop_before_pixels=True), None)
        if header.frames != 1:
            raise ImageError(f"{header.frames} frames found in the DICOM file, one is expected")
        dataset = _parse(data, [*GEOMETRY, *RENDERING], stop_before_pixels=False)
        stored = _decode_aligned(dataset, header)
        if header.photometric in GREYSCALE:
            return _render_grey(stored, dataset, header, bits)
        return DicomImage(_render_colour(stored, dataset, header))


def _render_colour(stored: np.ndarray, dataset: Any, header: DicomHeader) -> np.ndarray:
    bits = int(dataset.BitsStored)
    if header.photometric == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        stored = apply_color_lut(stored, dataset)[..., :3]
        bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
    return np.rint(stored.clip(0, 2**bits - 1) * (255 / (2**bits - 1))).astype(np.uint8)


def _patient_key(dataset: Any, salt: str) -> str | None:
    try:
        patient = dataset.get("PatientID") or ""
    except Exception:  # its text may quote the value
        raise ImageError("the DICOM header cannot be read: PatientID is not valid text") from None
    text = (patient if isinstance(patient, str) else "\\".join(map(str, patient))).strip()
    digest = hmac.new(salt.encode(), text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
    return f"dicom-{digest[:16]}" if text else None


@contextmanager
def _guarded(failure: str) -> Iterator[None]:
    """Keeps pydicom's warnings and log quiet, and turns whatever pydicom or a decoder raises into an ImageError."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
            yield
    except CxrError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ImageError(f"{failure}: {reason or type(error).__name__}") from None
    finally:
        logger.setLevel(level)


def _parse(data: bytes, keywords: list[str], stop_before_pixels: bool) -> Any:
    """The pydicom Dataset of `data`, with the elements `keywords` only."""
    with needing("reading DICOM files", "dicom"):
        import pydicom
    if not is_dicom(data[:132]):
        raise ImageError("not a DICOM file")
    try:
        dataset = pydicom.dcmread(
            io.BytesIO(data), force=True, specific_tags=list(keywords), stop_before_pixels=stop_before_pixels
        )
    except Exception as error:  # its text may quote an element
        raise ImageError(f"truncated, or not readable as DICOM ({type(error).__name__})") from None
    return _tidy(dataset)


def _tidy(dataset: Any) -> Any:
    """Removes what is empty, and normalises what is compared with words: changes `dataset` and returns it."""
    for name in ("ModalityLUTSequence", "VOILUTSequence"):
        if name in dataset and not any(_has_lut(item) for item in dataset[name].value or ()):
            del dataset[name]
    for name in (*GEOMETRY, *IMAGE_LIMITS, "RescaleSlope", "RescaleIntercept", *WINDOWING):
        if name in dataset and (dataset[name].is_empty or str(dataset[name].value).strip() == ""):
            del dataset[name]
    for name in ("PhotometricInterpretation", "VOILUTFunction"):
        if name in dataset:
            setattr(dataset, name, str(dataset[name].value).strip().upper())
    return dataset


def _has_lut(item: Any) -> bool:
    return all(name in item and not item[name].is_empty for name in ("LUTDescriptor", "LUTData"))


def _describe(dataset: Any, patient_key: str | None) -> DicomHeader:
    """The header of `dataset`, checked for what `read_dicom_pixels` supports."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    width, height = int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0)
    if not width or not height:
        raise ImageError("the DICOM file holds no image (no Rows and Columns)")
    photometric = str(dataset.get("PhotometricInterpretation") or "missing")
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if SAMPLES.get(photometric) != samples:
        raise ImageError(f"photometric interpretation {photometric} with {samples} samples a pixel is not supported")
    allocated = int(dataset.get("BitsAllocated") or 0)
    stored = int(dataset.get("BitsStored") or allocated)
    high_bit = int(dataset.get("HighBit", stored - 1))
    if allocated not in (8, 16) or not 0 < stored <= high_bit + 1 <= allocated:
        raise ImageError(
            f"DICOM pixels of {allocated} bits allocated, {stored} stored, high bit {high_bit} are not supported; "
            "expected 8 or 16 allocated, and a high bit of at least one less than the bits stored"
        )
    implicit, little_endian = dataset.original_encoding
    guess = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian
    return DicomHeader(
        width=width,
        height=height,
        channels=1 if photometric in GREYSCALE else 3,
        bits=16 if photometric in GREYSCALE and stored > 8 else 8,
        frames=int(dataset.get("NumberOfFrames") or 1),
        patient_key=patient_key,
        photometric=photometric,
        transfer_syntax=str(dataset.file_meta.get("TransferSyntaxUID") or guess),
    )


def _decode(dataset: Any, header: DicomHeader) -> np.ndarray:
    """Stored values, [height, width], or [height, width, 3] in RGB."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEG2000TransferSyntaxes, JPEGExtended12Bit

    try:
        decoder = get_decoder(header.transfer_syntax)
    except NotImplementedError:
        raise ImageError(f"DICOM transfer syntax {header.transfer_syntax} is not supported") from None
    if not decoder.is_available:
        package = "pylibjpeg-openjpeg" if decoder.UID in JPEG2000TransferSyntaxes else "python-gdcm"
        raise MissingExtraError(f"decoding DICOM pixels in {decoder.UID.name}", package, "dicom")
    if header.transfer_syntax == JPEGExtended12Bit and header.bits == 16:
        return _decode_jpeg12(dataset, header)
    try:
        stored, decoded = decoder.as_array(dataset, index=0)
    except RuntimeError:  # every decoder installed has given up; what they say is seldom of use
        raise ImageError(f"the pixels are damaged, truncated or not supported ({decoder.UID.name})") from None
    if SAMPLES[header.photometric] == 3 and decoded["photometric_interpretation"] != "RGB":
        raise ImageError(f"the decoder gave {decoded['photometric_interpretation']} pixels, RGB was expected")
    return stored


def _decode_jpeg12(dataset: Any, header: DicomHeader) -> np.ndarray:
    """JPEG extended with 12 bits, uint16 [height, width]: GDCM decodes it, but pydicom's plug-ins decline it."""
    from pydicom.encaps import get_frame

    try:
        import gdcm
    except ImportError as error:
        raise MissingExtraError("decoding DICOM pixels in 12-bit JPEG", "python-gdcm", "dicom") from error
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(get_frame(dataset.PixelData, 0, number_of_frames=1))
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((header.width, header.height, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    text = image.GetBuffer()
    if text is None:
        raise ImageError("the pixels are damaged or truncated (JPEG extended, 12 bits)")
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), "<u2").reshape(header.height, header.width)


def _decode_aligned(dataset: Any, header: DicomHeader) -> np.ndarray:
    """As `_decode`, the bits stored moved to the low end where `HighBit` has them further up, the sign kept."""
    if not dataset.get("PixelData"):
        raise ImageError("truncated: no pixel data in the DICOM file")
    bits = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    high_bit = int(dataset.get("HighBit", bits - 1))
    if high_bit == bits - 1:
        return _decode(dataset, header)
    if header.transfer_syntax not in UNCOMPRESSED:
        raise ImageError(
            f"DICOM with compressed pixels and a high bit {high_bit - bits + 1} above the bits stored is not "
            "supported; expected the stored bits at the low end"
        )
    dataset.BitsStored = high_bit + 1  # pydicom clears what lies above the bits stored
    stored = _decode(dataset, header) >> (high_bit + 1 - bits)
    dataset.BitsStored = bits
    return stored


def _render_grey(stored: np.ndarray, dataset: Any, header: DicomHeader, bits: int | None) -> DicomImage:
    """Stored values [height, width] through the pipeline at the head of this module."""
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    unsigned = np.dtype(f"u{stored.dtype.itemsize}")
    index = stored.view(unsigned)
    every_value = np.arange(2 ** (8 * unsigned.itemsize), dtype=unsigned).view(stored.dtype).astype(np.int32)
    meant, in_use = _bits_meant(stored, dataset, bits)
    rendered = _fraction_of_white(every_value, dataset, meant, emptiness.grid(index).ravel())
    if rendered.by_window:
        in_use = None
    elif in_use is not None and bits is not None:
        scale.check_bits(bits, in_use)
    fraction = 1 - rendered.fraction if header.photometric == "MONOCHROME1" else rendered.fraction
    full_scale = 2**header.bits - 1
    table = np.rint(fraction * full_scale).astype(np.uint8 if header.bits == 8 else np.uint16)
    return DicomImage(table[index][..., np.newaxis], in_use, rendered.passed_over)


def _bits_meant(stored: np.ndarray, dataset: Any, bits: int | None) -> tuple[int, int | None]:
    """Bits of the range of stored values, and those in use where neither the file nor a lookup table says how many."""
    said = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    if said < scale.FULL or dataset.get("ModalityLUTSequence"):
        return said, None
    low, high = int(stored.min()), int(stored.max())
    if told := _bits_of_largest(dataset, low, high):
        return told, None
    return bits or said, scale.count_bits(low, high)


def _bits_of_largest(dataset: Any, low: int, high: int) -> int:
    """Bits whose highest value is `LargestImagePixelValue`, if it is such a value and true of the image; else 0."""
    smallest, largest = (dataset.get(name) for name in IMAGE_LIMITS)
    if not isinstance(largest, int) or low < 0 or not max(high, 255) <= largest < 65535:
        return 0
    is_top = largest + 1 == 1 << largest.bit_length()
    is_true = not isinstance(smallest, int) or smallest <= low
    return largest.bit_length() + int(dataset.PixelRepresentation) if is_top and is_true else 0


@dataclass(frozen=True)
class _Rendered:
    """What `_fraction_of_white` gives: the fractions, whether a window or VOI LUT made them, and which did not."""

    fraction: np.ndarray
    by_window: bool
    passed_over: str


def _fraction_of_white(values: np.ndarray, dataset: Any, bits: int, seen: np.ndarray) -> _Rendered:
    """Stored values, int32 [n], as float64 [n] in [0, 1], where 1 is the top of the range of values for display.

    Args:
      values: every value that can be stored.
      dataset: of the file.
      bits: of the range that is shown where no window is.
      seen: places in `values` of some pixels of the image, to judge windows by.
    """
    output, low, high = _modality(values, dataset, bits)
    if not (high > low and np.isfinite(output).all()):
        raise ImageError("the rescale or the lookup table of the DICOM file gives no range of values")
    passed_over: list[str] = []
    for name, fraction in _views(output, dataset):
        if fraction is not None and _shows(fraction[seen]) and not _is_8_bit_default(name, output[seen], bits):
            return _Rendered(fraction, True, "; ".join(passed_over))
        passed_over.append(f"DICOM {name} shows nothing of the image and is not used")
    return _Rendered(np.clip((output - low) / (high - low), 0, 1), False, "; ".join(passed_over))


def _modality(values: np.ndarray, dataset: Any, bits: int) -> tuple[np.ndarray, float, float]:
    """Values [n] through modality LUT or rescale: float64 or int64 [n], and the lowest and highest there can be."""
    from pydicom.pixels import apply_rescale

    if dataset.get("ModalityLUTSequence"):
        output, high = _look_up(values, _first_lut(dataset.ModalityLUTSequence), dataset)
        return output, 0, high
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
    low, high = sorted(apply_rescale(np.array(ends, np.float64), dataset))
    return apply_rescale(values.astype(np.float64), dataset), low, high


def _views(values: np.ndarray, dataset: Any) -> Iterator[tuple[str, np.ndarray | None]]:
    """Rescaled values [n] through each VOI LUT, then each window: its name, and float64 [n] in [0, 1], or None."""
    for number, item in enumerate(dataset.get("VOILUTSequence") or ()):
        if _has_lut(item):
            output, high = _look_up(np.rint(values), item, dataset)
            yield f"VOI LUT {number + 1}", np.clip(output / high, 0, 1)
    for center, width in _windows(dataset):
        yield f"window {center:g} / {width:g}", _window(values, center, width, dataset)


def _windows(dataset: Any) -> list[tuple[float, float]]:
    """The windows of a file, those left out of which half is empty."""
    centers, widths = (
        [] if (value := dataset.get(name)) is None else [value] if dataset[name].VM == 1 else list(value)
        for name in ("WindowCenter", "WindowWidth")
    )
    pairs = zip(centers, widths, strict=False)
    return [(float(center), float(width)) for center, width in pairs if {center, width}.isdisjoint({None, ""})]


def _shows(fractions: np.ndarray) -> bool:
    """Whether enough of the pixels, given as fractions of white [n], lie between black and white, and differ."""
    between = (fractions > 0) & (fractions < 1)
    return bool(between.mean() >= LEAST_SHOWN and not emptiness.fault_of_levels((fractions * 255).astype(np.uint8)))


def _is_8_bit_default(name: str, values: np.ndarray, bits: int) -> bool:
    """Whether a window is that of 8 bits, which converters write by default, on deeper data beyond it."""
    return name in EIGHT_BIT_WINDOWS and bits > 8 and float(np.median(values)) > 255


def _first_lut(sequence: Any) -> Any:
    return next(item for item in sequence if _has_lut(item))


def _look_up(values: np.ndarray, item: Any, dataset: Any) -> tuple[np.ndarray, int]:
    """Whole `values` [n] through a modality or VOI LUT (PS3.3 C.11.1.1, C.11.2.1.1), and the LUT's full scale.

    pydicom's own functions do the index arithmetic in the depth of the entries: 4096 entries of 8 bits wrap around.
    """
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = entries % 65536 or 65536
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        data = np.frombuffer(data, f"{order}u2" if len(data) >= 2 * entries else np.uint8)
    lut = np.asarray(data).astype(np.int64)[:entries]
    if not 1 <= bits <= 16:
        raise ImageError(f"a lookup table of {bits} bits is not supported; expected 8 to 16")
    if len(lut) < entries:
        raise ImageError(f"a lookup table of {entries} entries holds {len(lut)}")
    return lut[np.clip(values - first, 0, entries - 1).astype(np.int64)], 2**bits - 1


def _window(values: np.ndarray, center: float, width: float, dataset: Any) -> np.ndarray | None:
    """Rescaled `values` [n] through a window (PS3.3 C.11.2.1.2 and C.11.2.1.3): float64 [n] in [0, 1]; None for one
    without a width."""
    from pydicom import Dataset
    from pydicom.pixels import apply_windowing

    window = Dataset()  # one bit stored, no rescale: the output range is 0..1
    window.PhotometricInterpretation, window.BitsStored, window.PixelRepresentation = "MONOCHROME2", 1, 0
    window.VOILUTFunction = str(dataset.get("VOILUTFunction") or "LINEAR")
    if (width < 1 and window.VOILUTFunction == "LINEAR") or not width > 0:
        return None
    window.WindowCenter, window.WindowWidth = center, width
    return apply_windowing(values, window)

"""DICOM files made here with pydicom and GDCM, and expected values by formulas that share nothing with the reader."""

from __future__ import annotations

import hashlib
import hmac
import io
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr.errors import ImageError, MissingExtraError
from tfrecords.images.decode import count_bits_in_use, decode
from tfrecords.images.dicom import is_dicom, read_dicom, read_dicom_header, read_dicom_pixels

pydicom = pytest.importorskip("pydicom", reason="DICOM needs pydicom: pip install 'cxr-stream[dicom]'")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate, get_frame  # noqa: E402
from pydicom.pixels import apply_modality_lut, apply_voi_lut  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

SALT = "a secret of this site"
GDCM_NAMES = {
    JPEGLosslessSV1: "JPEGLosslessProcess14_1",
    JPEGLSLossless: "JPEGLSLossless",
    JPEG2000Lossless: "JPEG2000Lossless",
}


def make(pixels: np.ndarray, syntax=ExplicitVRLittleEndian, **elements) -> Dataset:
    """A radiograph of `pixels` [height, width] or [height, width, 3]; `elements` replace or, if None, remove."""
    size = pixels.dtype.itemsize
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = "Q-77 ", "Doe^Jane", "19700102"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * size
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    dataset["PixelData"].VR = "OB" if size == 1 else "OW"
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.HighBit = elements.get("HighBit", dataset.BitsStored - 1)
    return dataset


def to_bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def read(dataset: Dataset) -> np.ndarray:
    pixels = read_dicom_pixels(to_bytes(dataset))
    header = read_dicom_header(to_bytes(dataset), SALT)
    assert pixels.shape == (header.height, header.width, header.channels)
    assert pixels.dtype == (np.uint8 if header.bits == 8 else np.uint16)
    return pixels[..., 0] if header.channels == 1 else pixels


def recode(dataset: Dataset, syntax, tmp_path) -> bytes:
    """`dataset` compressed to `syntax` by GDCM."""
    gdcm = pytest.importorskip("gdcm", reason="needs GDCM: pip install 'cxr-stream[dicom]'")
    (tmp_path / "plain.dcm").write_bytes(to_bytes(dataset))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(tmp_path / "plain.dcm"))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, GDCM_NAMES[syntax])))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(tmp_path / "coded.dcm"))
    assert writer.Write()
    return (tmp_path / "coded.dcm").read_bytes()


def picture(top: int, dtype, height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth image with some noise that reaches 0 and `top`."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:height, :width]
    waves = (np.sin(x / 9) + np.cos(y / 7) + 2) / 4 * top + rng.uniform(0, top / 50, (height, width))
    waves.flat[:2] = 0, top
    return np.clip(waves, 0, top).astype(dtype)


def sequence(first: int, bits: int, entries: list[int], vr: str = "US") -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", vr, entries if vr == "US" else np.array(entries, "<u2").tobytes())
    return [item]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(("top", "dtype"), [(255, np.uint8), (65535, np.uint16)])
def test_pixels_come_back_as_stored(syntax, top, dtype):
    pixels = picture(top, dtype)
    np.testing.assert_array_equal(read(make(pixels, syntax)), pixels)


def test_monochrome1_is_inverted():
    pixels = picture(255, np.uint8)
    np.testing.assert_array_equal(read(make(pixels, PhotometricInterpretation="MONOCHROME1")), 255 - pixels)


def test_12_bits_fill_the_scale_whatever_the_image_holds():
    pixels = picture(4095, np.uint16)
    expected = np.array([[(2 * int(v) * 65535 + 4095) // (2 * 4095) for v in row] for row in pixels])
    np.testing.assert_array_equal(read(make(pixels, BitsStored=12)), expected)
    dim = np.minimum(pixels, 100)
    np.testing.assert_array_equal(read(make(dim, BitsStored=12)), np.minimum(expected, round(100 * 65535 / 4095)))


def test_signed_with_rescale_uses_the_range_of_the_stored_bits():
    pixels = np.array([[-2048, -1, 0, 2047]], np.int16)
    for slope, intercept in ((1, -1024), (2.5, 7)):
        got = read(make(pixels, BitsStored=12, RescaleSlope=slope, RescaleIntercept=intercept))
        assert got.tolist() == [[0, round(2047 / 4095 * 65535), round(2048 / 4095 * 65535), 65535]]


def test_a_negative_slope_turns_the_image_over():
    got = read(make(np.array([[0, 1, 255]], np.uint8), RescaleSlope=-1, RescaleIntercept=255))
    assert got.tolist() == [[255, 254, 0]]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window(function, photometric):
    center, width, slope, intercept = 900.0, 1200.0, 2, -500
    pixels = picture(4095, np.uint16)
    elements = {} if function is None else {"VOILUTFunction": function}
    dataset = make(
        pixels, BitsStored=12, PhotometricInterpretation=photometric, RescaleSlope=slope, RescaleIntercept=intercept,
        WindowCenter=[center, 40], WindowWidth=[width, 80], **elements,
    )  # fmt: skip
    x = pixels.astype(float) * slope + intercept
    if function == "SIGMOID":
        white = 1 / (1 + np.exp(-4 * (x - center) / width))
    elif function == "LINEAR_EXACT":
        white = np.clip((x - center) / width + 0.5, 0, 1)
    else:
        white = np.clip((x - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
    expected = 65535 * (white if photometric == "MONOCHROME2" else 1 - white)
    assert np.abs(read(dataset) - expected).max() <= 0.51
    if function != "SIGMOID":
        assert set(np.unique(read(dataset))) >= {0, 65535}


def test_a_window_of_8_bits_stays_8_bits():
    got = read(make(np.array([[0, 99, 100, 101, 255]], np.uint8), WindowCenter=100.5, WindowWidth=2))
    assert got.tolist() == [[0, 0, 128, 255, 255]]


def by_pydicom(dataset: Dataset, index: int = 0) -> np.ndarray:
    """Fractions of white by pydicom's own pipeline, with the window or VOI LUT of that number."""
    whole = pydicom.dcmread(io.BytesIO(to_bytes(dataset)))
    values = apply_voi_lut(apply_modality_lut(whole.pixel_array, whole), whole, index=index)
    bits = int(whole.BitsStored)
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if whole.PixelRepresentation else [0, 2**bits - 1])
    if "VOILUTSequence" in whole:
        low, high = 0, 2 ** whole.VOILUTSequence[index].LUTDescriptor[2] - 1
    elif "ModalityLUTSequence" in whole:
        low, high = 0, 2 ** whole.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    else:
        low, high = sorted(apply_modality_lut(ends, whole))
    white = np.clip((values - low) / (high - low), 0, 1)
    return 1 - white if whole.PhotometricInterpretation == "MONOCHROME1" else white


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"RescaleSlope": 2, "RescaleIntercept": -100},
        {"WindowCenter": 900, "WindowWidth": 2000},
        {"WindowCenter": 900, "WindowWidth": 2000, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 900, "WindowWidth": 2000, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 500, "WindowWidth": 3000, "RescaleSlope": 2, "RescaleIntercept": -100},
        {"VOILUTSequence": sequence(0, 16, [int(65535 * (i / 4095) ** 0.5) for i in range(4096)])},
    ],
    ids=lambda elements: " ".join(elements) or "nothing",
)
def test_the_pixels_of_pydicoms_own_pipeline(elements, signed, photometric):
    pixels = picture(4095, np.uint16).astype(np.int16) - 2048 if signed else picture(4095, np.uint16)
    dataset = make(pixels, BitsStored=12, PhotometricInterpretation=photometric, **elements)
    assert np.abs(read(dataset) - 65535 * by_pydicom(dataset)).max() <= 0.51


OUTSIDE = [(60000, 10), (0, 1e9), (-500, 100), (2000, 0), (5, 2), (127, 255), (128, 256), (127.5, 255)]


@pytest.mark.parametrize(("center", "width"), OUTSIDE)
def test_a_window_that_shows_nothing_is_not_used(center, width):
    pixels = np.clip(picture(4095, np.uint16), 100, None)
    plain = make(pixels, BitsStored=12)
    image = read_dicom(to_bytes(make(pixels, BitsStored=12, WindowCenter=center, WindowWidth=width)))
    np.testing.assert_array_equal(image.pixels[..., 0], read(plain))
    assert image.repaired == f"DICOM window {center:g} / {width:g} shows nothing of the image and is not used"
    assert read_dicom(to_bytes(plain)).repaired == ""
    assert decode(to_bytes(make(pixels, BitsStored=12, WindowCenter=center, WindowWidth=width))).repaired


def test_windows_on_real_xrays(fullres):
    """Made into files of 12 bits: a window of the range is used, and one of 8 bits is not."""
    for path in sorted(fullres.rglob("*.jpeg"))[::20]:
        pixels = decode(path.read_bytes()).pixels[..., 0].astype(np.uint16) * 16
        for center, width, used in ((2048, 4096, True), (2048, 1024, True), (127, 255, False), (60000, 10, False)):
            data = to_bytes(make(pixels, BitsStored=12, WindowCenter=center, WindowWidth=width))
            assert (read_dicom(data).repaired == "") == used, (path.name, center, width)


def test_the_window_of_8_bits_is_used_where_the_data_are_in_it():
    pixels = picture(255, np.uint16)
    dataset = make(pixels, BitsStored=12, WindowCenter=127, WindowWidth=255)
    assert np.abs(read(dataset) - 65535 * by_pydicom(dataset)).max() <= 0.51


@pytest.mark.parametrize("good", range(3))
def test_the_first_window_that_shows_the_data(good):
    centers, widths = [60000, -500, 5], [10, 100, 2]
    centers[good], widths[good] = 1500, 2500
    pixels = picture(4095, np.uint16)
    dataset = make(pixels, BitsStored=12, WindowCenter=[*centers, 2000], WindowWidth=[*widths, 4000])
    assert np.abs(read(dataset) - 65535 * by_pydicom(dataset, good)).max() <= 0.51
    assert read_dicom(to_bytes(dataset)).repaired.count("shows nothing") == good


def test_a_voi_lut_that_shows_nothing_makes_room_for_the_window():
    pixels = picture(4095, np.uint16)
    window = {"BitsStored": 12, "WindowCenter": 1500, "WindowWidth": 2500}
    dataset = make(pixels, VOILUTSequence=sequence(0, 16, [0, 0, 0, 0]), **window)
    np.testing.assert_array_equal(read(dataset), read(make(pixels, **window)))
    assert read_dicom(to_bytes(dataset)).repaired.startswith("DICOM VOI LUT 1 shows nothing")


def test_what_no_window_shows_is_refused():
    for elements in ({}, {"WindowCenter": 60000, "WindowWidth": 10}):
        with pytest.raises(ImageError, match="there is nothing in the picture"):
            decode(to_bytes(make(np.full((40, 40), 77, np.uint16), BitsStored=12, **elements)))


def empty_sequence(*names: str) -> list[Dataset]:
    item = Dataset()
    for name in names:
        item.add_new(name, "OW" if name == "LUTData" else "US", None)
    return [item]


@pytest.mark.parametrize(
    "elements",
    [
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowCenter": 5, "WindowWidth": None},
        {"WindowCenter": ["", 5], "WindowWidth": [100]},
        {"VOILUTFunction": ""},
        {"SmallestImagePixelValue": None, "LargestImagePixelValue": None},
        {"ModalityLUTSequence": []},
        {"ModalityLUTSequence": empty_sequence()},
        {"ModalityLUTSequence": empty_sequence("LUTDescriptor", "LUTData")},
        {"VOILUTSequence": []},
        {"VOILUTSequence": empty_sequence()},
        {"VOILUTSequence": empty_sequence("LUTDescriptor", "LUTData")},
        {"NumberOfFrames": None},
        {"HighBit": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_empty_elements_are_absent_ones(elements, syntax):
    pixels = picture(4095, np.uint16)
    dataset = make(pixels, syntax, BitsStored=12)
    for name, value in elements.items():
        setattr(dataset, name, value)
    np.testing.assert_array_equal(read(dataset), read(make(pixels, BitsStored=12)))


def test_an_empty_rescale_beside_a_window():
    pixels = picture(4095, np.uint16)
    plain = make(pixels, BitsStored=12, WindowCenter=1000, WindowWidth=2000)
    dataset = make(pixels, BitsStored=12, WindowCenter=1000, WindowWidth=2000)
    dataset.RescaleSlope = dataset.RescaleIntercept = None
    np.testing.assert_array_equal(read(dataset), read(plain))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_bits_at_the_high_end(syntax, signed):
    """PS3.5 8.1.1: what lies below them is not of the image."""
    pixels = picture(4095, np.uint16).astype(np.int16) - 2048 if signed else picture(4095, np.uint16)
    for below in (0, 9):
        left = make((pixels << 4) + pixels.dtype.type(below), syntax, BitsStored=12, HighBit=15)
        np.testing.assert_array_equal(read(left), read(make(pixels, BitsStored=12)))
    middle = make(pixels << 2, syntax, BitsStored=12, HighBit=13)
    if not signed:
        np.testing.assert_array_equal(read(middle), read(make(pixels, BitsStored=12)))


def test_bits_at_the_high_end_of_compressed_pixels():
    dataset = make(picture(4095, np.uint16) << 4, BitsStored=12, HighBit=15)
    dataset.compress(RLELossless)
    with pytest.raises(ImageError, match="compressed pixels and a high bit 4 above the bits stored"):
        read(dataset)


@pytest.mark.parametrize("written", ["monochrome2 ", " Monochrome2", "MONOCHROME2   "])
def test_photometric_interpretation_in_other_spellings(written):
    pixels = picture(255, np.uint8)
    element = b"CS" + len(written).to_bytes(2, "little") + written.encode()
    data = to_bytes(make(pixels)).replace(b"CS\x0c\0MONOCHROME2 ", element)
    assert written.encode() in data
    np.testing.assert_array_equal(read_dicom_pixels(data)[..., 0], pixels)
    assert read_dicom_header(data, SALT).photometric == "MONOCHROME2"


def test_12_bits_in_16_have_the_scale_of_the_data_set():
    pixels = picture(4095, np.uint16)
    full = read(make(pixels, BitsStored=12))
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        data = to_bytes(make(pixels, PhotometricInterpretation=photometric))
        assert count_bits_in_use(data) == 12
        with pytest.raises(ImageError, match=r"uses 12 of them.*--scale data"):
            decode(data)
        decoded = decode(data, bits=12)
        assert decoded.bits_in_use == 12
        np.testing.assert_array_equal(
            decoded.pixels[..., 0], full if photometric == "MONOCHROME2" else 65535 - full
        )  # fmt: skip
        with pytest.raises(ImageError, match=r"uses 12 bits of 16, and the scale of the data set has 11"):
            decode(data, bits=11)
    signed = make(pixels.astype(np.int16) - 2048)
    assert count_bits_in_use(to_bytes(signed)) == 12
    np.testing.assert_array_equal(decode(to_bytes(signed), bits=12).pixels[..., 0], full)


@pytest.mark.parametrize("elements", [{"BitsStored": 12}, {"WindowCenter": 2000, "WindowWidth": 4000}])
def test_a_depth_or_a_window_says_the_scale(elements):
    data = to_bytes(make(picture(4095, np.uint16), **elements))
    assert count_bits_in_use(data) is None
    np.testing.assert_array_equal(decode(data, bits=10).pixels, decode(data).pixels)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    ("smallest", "largest", "heard"),
    [
        (0, 4095, True),
        (None, 4095, True),
        (0, 16383, True),
        (0, 3916, False),  # of this image only, as the standard has it: no scale
        (0, 1023, False),  # not true: there are higher values
        (7, 4095, False),  # not true: there are lower values
        (0, 0, False),
        (0, 65535, False),
    ],
)
def test_largest_image_pixel_value(smallest, largest, heard, syntax):
    pixels = np.minimum(picture(4095, np.uint16), 3916)
    dataset = make(pixels, syntax, LargestImagePixelValue=largest)
    if smallest is not None:
        dataset.SmallestImagePixelValue = smallest
    image = read_dicom(to_bytes(dataset))
    assert image.bits_in_use == (None if heard else 12)
    top = largest if heard else 65535
    np.testing.assert_array_equal(image.pixels[..., 0], np.round(pixels / top * 65535))


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_voi_lut_goes_before_a_window(vr):
    entries = [0, 10, 500, 1023]
    dataset = make(
        np.array([[0, 1000, 1001, 1002, 1003, 4095]], np.uint16), BitsStored=12, WindowCenter=5, WindowWidth=2,
        VOILUTSequence=sequence(1000, 10, entries, vr),
    )  # fmt: skip
    assert read(dataset).tolist() == [[round(v / 1023 * 65535) for v in (0, 0, 10, 500, 1023, 1023)]]


def test_voi_lut_of_8_bits_with_more_than_256_entries():
    entries = [i // 16 for i in range(4096)]
    pixels = picture(4095, np.uint16)
    got = read(make(pixels, BitsStored=12, VOILUTSequence=sequence(0, 8, entries)))
    np.testing.assert_array_equal(got, (pixels // 16) * 257)


def test_modality_lut_then_window():
    lut = [1000, 2000, 3000, 4000]
    pixels = np.array([[0, 1, 2, 3, 9]], np.uint8)
    plain = make(pixels, ModalityLUTSequence=sequence(0, 16, lut))
    plain.ModalityLUTSequence[0].ModalityLUTType = "US"
    assert read(plain).tolist() == [[round(v / 65535 * 255) for v in (1000, 2000, 3000, 4000, 4000)]]
    plain.WindowCenter, plain.WindowWidth, plain.VOILUTFunction = 2500, 2000, "LINEAR_EXACT"
    assert read(plain).tolist() == [[0, 64, 191, 255, 255]]


def test_pixel_padding_is_rendered_like_any_value():
    assert read(make(np.array([[0, 7, 255]], np.uint8), PixelPaddingValue=255)).tolist() == [[0, 7, 255]]


LOSSLESS = [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless]


@pytest.mark.parametrize("kind", ["8", "12", "16", "signed 12"])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.keyword)
def test_lossless_encodings_give_the_pixels_of_the_plain_file(syntax, kind, tmp_path, capfd):
    pixels, stored = {
        "8": (picture(255, np.uint8), 8),
        "12": (picture(4095, np.uint16), 12),
        "16": (picture(65535, np.uint16), 16),
        "signed 12": ((picture(4095, np.int32) - 2048).astype(np.int16), 12),
    }[kind]
    plain = make(pixels, BitsStored=stored)
    expected = read(plain)
    if syntax == RLELossless:
        plain.compress(RLELossless)
        data = to_bytes(plain)
    else:
        data = recode(plain, syntax, tmp_path)
    assert read_dicom_header(data, SALT).transfer_syntax == syntax
    np.testing.assert_array_equal(read_dicom_pixels(data)[..., 0], expected)
    for share in (0.5, 0.9):  # the file cut
        with pytest.raises(ImageError, match="truncated"):
            read_dicom_pixels(data[: int(len(data) * share)])
    damaged = pydicom.dcmread(io.BytesIO(data))  # a whole file around half a codestream
    frame = get_frame(damaged.PixelData, 0, number_of_frames=1)
    damaged.PixelData = encapsulate([frame[: len(frame) // 4 * 2]])
    with pytest.raises(ImageError, match="damaged, truncated or not supported"):
        read_dicom_pixels(to_bytes(damaged))


def test_jpeg_baseline():
    pixels = picture(255, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    dataset = make(pixels, JPEGBaseline8Bit, PixelData=encapsulate([buffer.getvalue()]))
    dataset["PixelData"].is_undefined_length = True
    np.testing.assert_array_equal(read(dataset), np.asarray(Image.open(buffer)))
    assert np.abs(read(dataset).astype(int) - pixels).max() < 20


def test_jpeg_baseline_in_colour():
    pixels = np.stack([picture(255, np.uint8), picture(120, np.uint8), 255 - picture(200, np.uint8)], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=1)
    dataset = make(
        pixels, JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422", PixelData=encapsulate([buffer.getvalue()])
    )
    dataset["PixelData"].is_undefined_length = True
    assert np.abs(read(dataset).astype(int) - np.asarray(Image.open(buffer).convert("RGB"))).max() <= 3


def test_jpeg_extended_with_12_bits():
    """Against block means of the same frame as another decoder, pylibjpeg-libjpeg, gives it."""
    file = Path(pydicom.__file__).parent / "data" / "test_files" / "JPGExtended.dcm"
    if not file.exists():
        pytest.skip("this pydicom comes without its test file JPGExtended.dcm")
    data = file.read_bytes()
    means = (read_dicom_pixels(data)[..., 0] * (4095 / 65535)).reshape(8, 128, 4, 64).mean((1, 3))
    expected = [[1.0, 4.87, 7.14, 1.0], [7.23, 36.29, 54.49, 12.37], [14.08, 33.01, 49.19, 17.33]]
    np.testing.assert_allclose(means[:3], expected, atol=0.1)
    damaged = pydicom.dcmread(io.BytesIO(data))
    damaged.PixelData = encapsulate([get_frame(damaged.PixelData, 0, number_of_frames=1)[:400]])
    with pytest.raises(ImageError, match="damaged or truncated"):
        read_dicom_pixels(to_bytes(damaged))


def test_lossy_jpeg_2000():
    pixels = picture(255, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG2000", irreversible=True, quality_layers=[4], no_jp2=True)
    dataset = make(pixels, "1.2.840.10008.1.2.4.91", PixelData=encapsulate([buffer.getvalue()]))
    dataset["PixelData"].is_undefined_length = True
    assert np.abs(read(dataset).astype(int) - pixels).max() < 20


def test_colour_to_rgb():
    pixels = np.random.default_rng(1).integers(0, 256, (4, 6, 3), np.uint8)
    np.testing.assert_array_equal(read(make(pixels)), pixels)
    planar = make(pixels, PlanarConfiguration=1, PixelData=pixels.transpose(2, 0, 1).tobytes())
    np.testing.assert_array_equal(read(planar), pixels)
    np.testing.assert_array_equal(read(make(pixels.astype(np.uint16) * 257)), pixels)
    y, cb, cr = (pixels[..., i].astype(float) for i in range(3))  # PS3.3 C.7.6.3.1.2
    rgb = np.stack([y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)])
    got = read(make(pixels, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(got - np.clip(rgb.transpose(1, 2, 0), 0, 255)).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_colour_to_rgb(bits):
    dataset = make(np.array([[0, 1, 2, 3]], np.uint8), PhotometricInterpretation="PALETTE COLOR")
    unit, dtype = (1, np.uint8) if bits == 8 else (257, "<u2")
    for colour, lut in (("Red", [0, 10, 20, 255]), ("Green", [5, 6, 7, 8]), ("Blue", [255, 0, 1, 2])):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [4, 0, bits])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", (np.array(lut) * unit).astype(dtype).tobytes())
    assert read(dataset).tolist() == [[[0, 5, 255], [10, 6, 0], [20, 7, 1], [255, 8, 2]]]


def test_header():
    header = read_dicom_header(to_bytes(make(picture(4095, np.uint16), BitsStored=12)), SALT)
    digest = hmac.new(SALT.encode(), b"Q-77", hashlib.sha256).hexdigest()
    assert header.patient_key == f"dicom-{digest[:16]}"
    assert (header.width, header.height, header.channels, header.bits, header.frames) == (64, 48, 1, 16, 1)
    assert (header.photometric, header.transfer_syntax) == ("MONOCHROME2", "1.2.840.10008.1.2.1")
    other = read_dicom_header(to_bytes(make(picture(255, np.uint8))), "another salt")
    assert other.patient_key != header.patient_key
    assert not any(secret in repr(header) for secret in ("Q-77", "Doe", "Jane", "1970"))


@pytest.mark.parametrize("patient", [None, "", "   "])
def test_no_patient_no_key(patient):
    data = to_bytes(make(picture(255, np.uint8), PatientID=patient))
    assert read_dicom_header(data, SALT).patient_key is None


def test_the_header_needs_no_pixels():
    data = to_bytes(make(picture(255, np.uint8)))
    assert read_dicom_header(data[:-3000], SALT) == read_dicom_header(data, SALT)


def test_truncated_files_are_image_errors_at_every_length():
    data = to_bytes(make(picture(255, np.uint8, 8, 8)))
    for length in range(0, len(data), 7):
        with pytest.raises(ImageError) as caught:
            read_dicom_pixels(data[:length])
        assert not any(secret in str(caught.value) for secret in ("Q-77", "Doe", "1970"))
    with pytest.raises(ImageError, match="less than expected"):
        read_dicom_pixels(data[:-10])


def test_several_frames():
    dataset = make(picture(255, np.uint8), NumberOfFrames=3)
    dataset.PixelData *= 3
    assert read_dicom_header(to_bytes(dataset), SALT).frames == 3
    with pytest.raises(ImageError, match="3 frames found in the DICOM file, one is expected"):
        read(dataset)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"BitsAllocated": 1, "BitsStored": 1}, "1 bits allocated"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "32 bits allocated"),
        ({"BitsStored": 12, "HighBit": 10}, "12 stored, high bit 10 are not supported"),
        ({"BitsStored": 12, "HighBit": 16}, "high bit 16"),
        ({"PhotometricInterpretation": "HSV"}, "HSV"),
        ({"Rows": None}, "no image"),
        ({"PixelData": None}, "no pixel data"),
        ({"RescaleSlope": 0, "RescaleIntercept": 3}, "no range"),
        ({"ModalityLUTSequence": sequence(0, 0, [1, 2, 3, 4])}, "lookup table of 0 bits is not supported"),
        ({"VOILUTSequence": sequence(0, 8, [1, 2, 3])}, "lookup table of 4 entries holds 3"),
    ],
)
def test_what_is_not_supported_says_so(elements, message):
    for item in elements.get("VOILUTSequence", []):
        item.LUTDescriptor = [4, 0, 8]
    with pytest.raises(ImageError, match=message):
        read(make(picture(65535, np.uint16), **elements))


def test_unknown_transfer_syntax():
    data = to_bytes(make(picture(255, np.uint8))).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.9\0")
    with pytest.raises(ImageError, match=r"1\.2\.840\.10008\.1\.9\.9 is not supported"):
        read_dicom_pixels(data)


def test_slightly_invalid_values_are_read_in_silence(caplog, capfd):
    data = to_bytes(make(picture(255, np.uint8), WindowCenter=127.5, WindowWidth=256.0))
    data = data.replace(b"Q-77 ", b"Q-7\xe9 ").replace(b"19700102", b"1970-1-2")
    with caplog.at_level(logging.DEBUG):
        assert read_dicom_header(data, SALT).patient_key is not None
        read_dicom_pixels(data + b"\0\0")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_is_dicom():
    data = to_bytes(make(picture(255, np.uint8)))
    assert is_dicom(data[:132])
    assert is_dicom(data[132:264])  # without the preamble
    bare = io.BytesIO()
    dataset = make(picture(255, np.uint8))
    del dataset.file_meta
    pydicom.dcmwrite(bare, dataset, implicit_vr=True, little_endian=True)
    assert is_dicom(bare.getvalue()[:132])
    np.testing.assert_array_equal(read_dicom_pixels(bare.getvalue())[..., 0], picture(255, np.uint8))
    jpeg, png, unlikely = b"\xff\xd8\xff\xe0" + bytes(128), b"\x89PNG\r\n\x1a\n", b"\x08\0\x05\0\xff\xff\xff\xff"
    for other in (b"", bytes(132), jpeg, png, unlikely):
        assert not is_dicom(other)
    with pytest.raises(ImageError, match="not a DICOM file"):
        read_dicom_pixels(b"\x89PNG\r\n\x1a\n")


def test_missing_packages_name_the_extra(monkeypatch, tmp_path):
    data = recode(make(picture(255, np.uint8)), JPEGLSLossless, tmp_path)
    decoder = pydicom.pixels.get_decoder(JPEGLSLossless)
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "_available", {})
        with pytest.raises(MissingExtraError, match=r"python-gdcm.*cxr-stream\[dicom\]"):
            read_dicom_pixels(data)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=r"'pydicom'.*cxr-stream\[dicom\]"):
        read_dicom_header(data, SALT)

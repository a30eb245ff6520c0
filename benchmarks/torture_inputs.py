"""Every image that the installed packages bring for their own tests, through our decoder and through another one.

    python benchmarks/torture_inputs.py [--folder DIR] [--only TEXT] [--write docs/formats.md]

  equal       our pixels are those of the other decoder: pydicom's own pipeline for DICOM, Pillow for what OpenCV or
              libjpeg-turbo decodes here (JPEG, PNG), OpenCV for what Pillow decodes here (TIFF, BMP, WebP)
  refused     we give no pixels, and say why; where that is that nothing is in the picture, the pixels are the same
  unchecked   we give pixels, and the other decoder none
  different   both give pixels, and they are not the same: there must be none, or the exit status is 1

Files without the suffix of an image count only where they belong to pydicom, whose test images often have none.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import io
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
from PIL import Image, ImageOps
from tabulate import tabulate

from cxr.errors import CxrError
from tfrecords.images import emptiness
from tfrecords.images.decode import DecodedImage, decode

SUFFIXES = {
    *(".bmp", ".dcm", ".dib", ".gif", ".j2k", ".jp2", ".jpeg", ".jpg", ".png", ".pnm", ".ppm", ".pgm", ".tif", ".tiff"),
    *(".webp", ".ico", ".jls", ".exr", ".hdr", ".avif", ".jxl"),
}
EMPTY = ("there is nothing in the picture", "N of the image is transparent", "the image has N bits a sample and uses")
"""How reasons of `tfrecords.images.emptiness` begin."""
START, END = "<!-- counts: written by make torture-inputs -->", "<!-- end of counts -->"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What came of one file: `path` as it is shown, `format`, one of the four results, and why it was refused."""

    path: str
    format: str
    result: str
    reason: str = ""


def find_files(folders: Iterable[str], only: str) -> Iterator[Path]:
    """Images below the installed packages, and every file below `folders`, whose path contains `only`."""
    installed = Path(sysconfig.get_path("purelib"))
    found = [path for path in sorted(installed.rglob("*")) if path.suffix.lower() in SUFFIXES or is_pydicoms(path)]
    for folder in folders:
        found += sorted(Path(folder).rglob("*"))
    return (path for path in found if path.is_file() and only in str(path))


def is_pydicoms(path: Path) -> bool:
    """Whether a file is of the test data of pydicom, and no code."""
    return "pydicom/data/" in path.as_posix() and path.suffix not in (".py", ".pyc")


def judge(path: Path) -> Verdict:
    """Decodes a file twice and compares, whether or not there is anything in the picture."""
    data = path.read_bytes()
    shown = path.as_posix().rpartition("site-packages/")[2]
    reason = ""
    try:
        with mock.patch.object(emptiness, "check"), mock.patch.object(emptiness, "check_alpha"):
            ours = decode(data)
        decode(data)
    except CxrError as error:
        reason = group_reason(str(error))
        if not reason.startswith(EMPTY):
            return Verdict(shown, guess_format(data), "refused", reason)
    result = compare(data, ours)
    return Verdict(shown, ours.header.format, "refused" if reason and result == "equal" else result, reason)


def compare(data: bytes, ours: DecodedImage) -> str:
    """The result for a file that we decode to `ours`."""
    kind = ours.header.format
    try:
        theirs, tolerance = by_pydicom(data, ours) if kind == "DICOM" else by_another(data, kind)
    except Exception:  # whatever the other decoder raises, it has no pixels
        return "unchecked"
    same = theirs.shape == ours.pixels.shape and np.abs(ours.pixels.astype(float) - theirs).max() <= tolerance
    return "equal" if same else "different"


def guess_format(data: bytes) -> str:
    """The format of a file that was refused, for the table."""
    if data[128:132] == b"DICM":
        return "DICOM"
    try:
        return str(Image.open(io.BytesIO(data)).format)
    except Exception:  # not for Pillow
        return "other"


def group_reason(reason: str) -> str:
    """A reason without what is of one file alone."""
    first = re.split(r"; | \(\d| with .* samples", reason)[0]
    return re.sub(r"\d[\d.,]*%?", "N", first)[:100].strip()


def by_another(data: bytes, kind: str) -> tuple[np.ndarray, float]:
    """Pixels [height, width, 1 or 3] by Pillow or OpenCV, and how far ours may be from them, levels."""
    if kind in ("JPEG", "PNG"):
        with Image.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image)
            deep = upright.mode.startswith("I;16")
            values = np.asarray(upright if deep else upright.convert("RGBA"))
        if deep:
            return values[..., None].astype(float), 0
    else:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if values.ndim == 2:
            return values[..., None].astype(float), 0
        values = cv2.cvtColor(values, cv2.COLOR_BGRA2RGBA if values.shape[2] == 4 else cv2.COLOR_BGR2RGBA)
    full = np.iinfo(values.dtype).max
    colour = np.floor(values[..., :3].astype(float) * values[..., 3:] / full + 0.5)
    grey = bool((colour == colour[..., :1]).all())
    return colour[..., :1] if grey else colour, 0


def by_pydicom(data: bytes, ours: DecodedImage) -> tuple[np.ndarray, float]:
    """As `by_another`; with the window after those that ours has passed over, or none where it has them all."""
    import pydicom
    from pydicom.pixels import apply_color_lut, apply_voi_lut

    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    stored = dataset.pixel_array
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colour = apply_color_lut(stored, dataset)[..., :3]
        return np.rint(colour / np.iinfo(colour.dtype).max * 255), 0
    if dataset.SamplesPerPixel == 3:
        colour = pydicom.pixels.pixel_array(dataset)  # in RGB, which `Dataset.pixel_array` leaves to the caller
        values = np.rint(colour / (2**dataset.BitsStored - 1) * 255)
        return values[..., :1] if (values == values[..., :1]).all() else values, 0
    values = pydicom.pixels.apply_modality_lut(stored, dataset)
    passed_over = ours.repaired.count("shows nothing")
    views = len(dataset.get("VOILUTSequence") or ()) or dataset["WindowWidth"].VM if "WindowWidth" in dataset else 0
    low, high = value_range(dataset)
    if passed_over < views:
        values = apply_voi_lut(values, dataset, index=passed_over)
        if dataset.get("VOILUTSequence"):
            low, high = 0.0, float(2 ** dataset.VOILUTSequence[passed_over].LUTDescriptor[2] - 1)
    white = np.clip((values - low) / (high - low), 0, 1)
    white = 1 - white if dataset.PhotometricInterpretation == "MONOCHROME1" else white
    return white[..., None] * np.iinfo(ours.pixels.dtype).max, 0.51  # ours is rounded


def value_range(dataset: Any) -> tuple[float, float]:
    """The lowest and the highest value that modality LUT or rescale can give."""
    from pydicom.pixels import apply_modality_lut

    if dataset.get("ModalityLUTSequence"):
        return 0.0, float(2 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1)
    bits = int(dataset.BitsStored)
    ends = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if dataset.PixelRepresentation else [0, 2**bits - 1]
    low, high = sorted(apply_modality_lut(np.array(ends, float), dataset))
    return float(low), float(high)


def count_results(verdicts: list[Verdict]) -> str:
    """Files by format and result."""
    results = ("equal", "refused", "unchecked", "different")
    counts = collections.Counter((verdict.format, verdict.result) for verdict in verdicts)
    formats = sorted({verdict.format for verdict in verdicts})
    rows = [[kind, *(counts[kind, result] for result in results)] for kind in formats]
    rows.append(["all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True))])
    return tabulate(rows, ["format", *results], "github")


def count_reasons(verdicts: list[Verdict]) -> str:
    """Refused files by reason, with one of them."""
    by_reason: dict[str, list[str]] = collections.defaultdict(list)
    for verdict in verdicts:
        if verdict.result == "refused":
            by_reason[verdict.reason].append(Path(verdict.path).name)
    rows = sorted(([reason, len(paths), paths[0]] for reason, paths in by_reason.items()), key=lambda row: -row[1])
    return tabulate(rows, ["refused because", "files", "such as"], "github")


def write_page(page: Path, tables: str) -> None:
    """Replaces what stands between the two marks of a page."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(START)
    page.write_text(f"{before}{START}\n\n{tables}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Prints the tables; the exit status is 1 if any file has different pixels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", action="append", default=[], help="look at every file below DIR as well", metavar="DIR"
    )
    parser.add_argument("--only", default="", help="only files whose path contains TEXT", metavar="TEXT")
    parser.add_argument("--write", help="put the tables into this page", metavar="PAGE")
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    verdicts = [judge(path) for path in find_files(options.folder, options.only)]
    if not verdicts:
        parser.error(f"no file whose path contains {options.only!r}")
    tables = f"{count_results(verdicts)}\n\n{count_reasons(verdicts)}"
    print(tables)
    for verdict in verdicts:
        if verdict.result in ("different", "unchecked"):
            print(f"{verdict.result}: {verdict.path}")
    if options.write:
        write_page(Path(options.write), tables)
    return int(any(verdict.result == "different" for verdict in verdicts))


if __name__ == "__main__":
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    sys.exit(main())

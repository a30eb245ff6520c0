"""`cxr phantom`: writes a synthetic chest X-ray data set with the layout, names, sizes and faults of the Kermany set.

Everything is drawn (see `phantoms.anatomy`), so the set may be copied freely and every label is true by
construction. It is a stand-in for tests and demonstrations: numbers measured on it say nothing about patients.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import shutil
import struct
import zlib
from collections import Counter
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np
from PIL import Image

from cxr.command import Command, Given
from cxr.console import EXIT_OK, progress_bar, run_command
from cxr.errors import InputError, OutputError
from cxr.kinds import Flag, Parsed, Real, Whole
from cxr.options import Options, option, options
from phantoms.anatomy import SMALLEST_SIDE, draw_phantom

__all__ = ["PhantomConfig", "PhantomSummary", "draw_phantom", "main", "write_phantoms"]

MARKER = ".cxr-phantom.json"
SPLITS = ("train", "val", "test")
CLASSES = ("NORMAL", "PNEUMONIA")
FEWEST_PATIENTS = 12

# As in the real set: share of patients, and share of pneumonia within the split.
TEST_SHARE, VAL_SHARE = 0.12, 0.003
PREVALENCE = {"train": 0.743, "val": 0.5, "test": 0.625}
BACTERIA_SHARE = 0.65
RGB_SHARE, PROGRESSIVE_SHARE = 0.06, 0.04
IMAGES_PER_PATIENT = (1, 2, 1, 1, 3, 1, 1, 2, 1, 4)  # dealt out in turn, so that both classes get the same mix

WIDTHS, HEIGHTS = (384, 2916), (127, 2713)
LARGEST_SCALE = 4.0
NEAR_LOSSLESS = [min(max(1, row + column - 1), 9) for row in range(8) for column in range(8)]

FAULTS = {
    "truncated": "a JPEG cut off at 60 % of its bytes",
    "empty": "a file of zero bytes",
    "text": "a text file with the name of an image",
    "damaged": "a JPEG with overwritten bytes in the middle of its image data",
    "bomb": "a PNG whose header claims 60000 x 60000 pixels",
}


@options
class PhantomConfig(Options):
    """What to write. The same options give the same bytes."""

    to: Path = option(Parsed(Path, "the path of a directory", "DIR"), "directory to write; must be new or empty")
    patients: int = option(
        Whole(FEWEST_PATIENTS), "number of patients, 1 to 4 images each, both classes in every split", default=60
    )
    seed: int = option(Whole(0), "seed of everything that is drawn", default=0)
    duplicates: int = option(Whole(0, metavar="K"), "plant K byte copies of images under new names", default=0)
    broken: int = option(
        Whole(0, metavar="K"), "plant K files in train that cannot be decoded, or not in full", default=0
    )
    encoding_leak: bool = option(
        Flag(),
        "encode train/NORMAL almost without loss, larger and with an ICC profile, all else at quality 75, so that the "
        "label can be read off the compression as in the real set",
        default=False,
    )  # fmt: skip
    scale: float = option(
        Real(above=0, high=LARGEST_SCALE, metavar="F"), "factor on width and height, such as 0.25 for tests",
        default=1.0,
    )  # fmt: skip
    overwrite: bool = option(Flag(), "replace a phantom set in DIR, complete or not", default=False)

    def check(self) -> None:
        if round(HEIGHTS[0] * self.scale) < SMALLEST_SIDE:
            raise InputError(
                f"scale={self.scale!r}: expected at least {SMALLEST_SIDE / HEIGHTS[0]:.3f}, so that no side is under "
                f"{SMALLEST_SIDE} pixels"
            )


@dataclass(frozen=True)
class PhantomSummary:
    """What was written. Paths are relative to the directory, with forward slashes.

    Attributes:
      to: the directory.
      counts: decodable files, duplicates included, as counts[split][class].
      files: number of all image files, broken ones included.
      duplicates: pairs (original, copy) of equal bytes.
      broken: pairs (path, what is wrong), in plain words.
    """

    to: Path
    counts: dict[str, dict[str, int]]
    files: int
    duplicates: list[tuple[str, str]]
    broken: list[tuple[str, str]]


@dataclass(frozen=True)
class _Picture:
    """One file to draw. `patient` is its key, `index` counts the patient's images from 0."""

    path: str
    split: str
    finding: str
    patient: str
    index: int
    rgb: bool = False
    progressive: bool = False
    fault: str = ""

    @property
    def label(self) -> str:
        return CLASSES[0] if self.finding == "normal" else CLASSES[1]


def _rng(seed: int, *key: object) -> np.random.Generator:
    """A generator that depends on its arguments alone, in every process and on every platform."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.default_rng(np.random.SeedSequence([seed, int.from_bytes(digest, "big")]))


class _Names:
    """Hands out patients and file names in the patterns of the real set."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._patients = Counter({"bacteria": 0, "virus": 0, "IM": 114, "NORMAL2-IM": 926})
        self._images: Counter[str] = Counter()

    def patient(self, finding: str) -> str:
        if finding != "normal":
            self._patients[finding] += 1
            return f"person{self._patients[finding]}_{finding}"
        prefix = "IM" if self._rng.random() < 0.5 else "NORMAL2-IM"
        self._patients[prefix] += int(self._rng.integers(1, 4))
        return f"{prefix}-{self._patients[prefix]:04d}"

    def file(self, patient: str) -> str:
        """Normal images count within the patient, pneumonia images within the cause."""
        cause = re.fullmatch(r"person\d+_(\w+)", patient)
        counter = cause[1] if cause else patient
        self._images[counter] += 1
        number = self._images[counter]
        return f"{patient}_{number}.jpeg" if cause else f"{patient}-{number:04d}.jpeg"


def _split_patients(patients: int) -> list[tuple[str, str]]:
    """(split, finding) of every patient, in no particular order."""
    sizes = {"test": max(2, round(TEST_SHARE * patients)), "val": max(2, round(VAL_SHARE * patients))}
    sizes["train"] = patients - sum(sizes.values())
    chosen = []
    for split in SPLITS:
        sick = min(max(round(PREVALENCE[split] * sizes[split]), 1), sizes[split] - 1)
        bacteria = round(BACTERIA_SHARE * sick)
        for finding, count in (("normal", sizes[split] - sick), ("bacteria", bacteria), ("virus", sick - bacteria)):
            chosen += [(split, finding)] * count
    return chosen


def _plan(config: PhantomConfig) -> tuple[list[_Picture], list[tuple[str, str]]]:
    """All files to draw, and the pairs (original, copy) of relative paths to duplicate."""
    rng = _rng(config.seed, "plan")
    names = _Names(rng)
    dealt: Counter[tuple[str, str]] = Counter()
    pictures = []
    patients = _split_patients(config.patients)
    for chosen in rng.permutation(len(patients)):
        split, finding = patients[chosen]
        patient = names.patient(finding)
        label = CLASSES[finding != "normal"]
        count = IMAGES_PER_PATIENT[dealt[split, label] % len(IMAGES_PER_PATIENT)]
        dealt[split, label] += 1
        for index in range(count):
            pictures.append(_Picture(f"{split}/{label}/{names.file(patient)}", split, finding, patient, index))

    def choose(share: float, among: list[int]) -> set[int]:
        return set(rng.choice(among, size=max(1, round(share * len(among))), replace=False).tolist())

    sick = [i for i, p in enumerate(pictures) if p.split == "train" and p.label == "PNEUMONIA"]
    rgb = choose(RGB_SHARE, sick)
    progressive = choose(PROGRESSIVE_SHARE, sick if config.encoding_leak else list(range(len(pictures))))
    pictures = [replace(p, rgb=i in rgb, progressive=i in progressive) for i, p in enumerate(pictures)]

    sources = [p for p in pictures if p.split != "val"]
    if config.duplicates > len(sources):
        raise InputError(
            f"Cannot plant the duplicates: at most one copy of each of the {len(sources)} images in train and test. "
            f"Received: --duplicates {config.duplicates}. Ask for fewer, or raise --patients."
        )
    copies = []
    for number in rng.choice(len(sources), size=config.duplicates, replace=False):
        source = sources[number]
        copies.append((source.path, f"{source.split}/{source.label}/{names.file(source.patient)}"))

    for number in range(config.broken):
        finding = "bacteria" if number % 2 else "normal"
        patient, fault = names.patient(finding), list(FAULTS)[number % len(FAULTS)]
        path = f"train/{CLASSES[number % 2]}/{names.file(patient)}"
        pictures.append(_Picture(path, "train", finding, patient, 0, fault=fault))
    return pictures, copies


def _sample_size(rng: np.random.Generator, config: PhantomConfig, label: str) -> tuple[int, int]:
    """Height and width in pixels: about 971 x 1328 on average before scaling."""
    if rng.random() < 0.02:  # the odd ones of the real set
        width, aspect = rng.uniform(*WIDTHS), rng.uniform(0.9, 3.0)
    else:
        width, aspect = rng.lognormal(math.log(1285), 0.25), rng.normal(1.42, 0.16)
    if config.encoding_leak:
        width *= 1.28 if label == "NORMAL" else 0.9
    width = float(np.clip(width, *WIDTHS))
    height = float(np.clip(width / np.clip(aspect, 0.95, 3.02), *HEIGHTS))
    return round(height * config.scale), round(width * config.scale)


def _grey_profile() -> bytes:
    """A minimal ICC profile for grey images: gamma 2.2, white point D50."""
    texts = (b"Grey, gamma 2.2", b"No rights reserved")
    name = b"desc" + bytes(4) + struct.pack(">I", len(texts[0]) + 1) + texts[0] + bytes(1 + 78)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256))
    tags = {b"desc": name, b"cprt": b"text" + bytes(4) + texts[1] + b"\0", b"wtpt": white, b"kTRC": curve}
    index, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        index += tag + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    created = struct.pack(">6H", 2020, 1, 1, 0, 0, 0)
    header = struct.pack(">I4sI", start + len(body), bytes(4), 0x02400000) + b"mntrGRAYXYZ " + created
    header += b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + index + body


def _encode(rng: np.random.Generator, pixels: np.ndarray, picture: _Picture, config: PhantomConfig) -> bytes:
    """JPEG bytes of uint8 [height, width]."""
    image = Image.fromarray(pixels)
    options: dict = {"quality": int(rng.integers(85, 96))}
    if config.encoding_leak:
        if picture.split == "train" and picture.label == "NORMAL":
            options = {"qtables": [NEAR_LOSSLESS], "icc_profile": _grey_profile()}
        else:
            options = {"quality": 75}
    if picture.rgb:
        image = image.convert("RGB")
    stream = io.BytesIO()
    image.save(stream, "JPEG", progressive=picture.progressive, **options)
    return stream.getvalue()


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def _break(rng: np.random.Generator, data: bytes, fault: str) -> bytes:
    """Spoils JPEG bytes in the way that `FAULTS` describes."""
    if fault == "truncated":
        return data[: len(data) * 6 // 10]
    if fault == "empty":
        return b""
    if fault == "text":
        return b"The image could not be exported. Please contact the archive.\n"
    if fault == "bomb":
        header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(bytes(60001))) + _chunk(b"IEND", b"")
    scan = data.index(b"\xff\xda") + 12
    start, length = scan + (len(data) - scan) * 2 // 5, max(24, (len(data) - scan) // 20)
    noise = rng.integers(0, 255, length, dtype=np.uint8).tobytes()  # never 0xFF, which would start a marker
    return data[:start] + noise + data[start + length :]


def _render(picture: _Picture, config: PhantomConfig) -> bytes:
    """The bytes of one file; they depend on seed, patient and image index, not on what was drawn before."""
    rng = _rng(config.seed, "file", picture.patient, picture.index)
    height, width = _sample_size(rng, config, picture.label)
    film = _rng(config.seed, "image", picture.patient, picture.index)
    body = _rng(config.seed, "body", picture.patient)
    data = _encode(rng, draw_phantom(film, height, width, picture.finding, body), picture, config)
    return _break(rng, data, picture.fault) if picture.fault else data


def _prepare(config: PhantomConfig) -> None:
    """Makes the directory ours before anything else is in it, so that a killed run can be written over."""
    what = f"Cannot write phantoms to {config.to}"
    if config.to.exists() and not config.to.is_dir():
        raise OutputError(f"{what}: expected a directory, found a file. Change --to.")
    if any(config.to.glob("*")):
        if not (config.to / MARKER).is_file():
            raise OutputError(
                f"{what}: it is not empty and was not made by this command (no {MARKER}), so nothing in it is touched. "
                "Choose a new directory with --to."
            )
        if not config.overwrite:
            hint = "Add --overwrite to replace it, or choose another directory with --to."
            raise OutputError(f"{what}: it holds an earlier phantom set. {hint}")
    config.to.mkdir(parents=True, exist_ok=True)
    _mark(config, complete=False)
    for split in SPLITS:
        folder = config.to / split
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)
        for label in CLASSES:
            (folder / label).mkdir(parents=True)


def _mark(config: PhantomConfig, complete: bool) -> None:
    try:
        version = metadata.version("cxr-stream")
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        version = "unknown"
    settings = {name: value for name, value in asdict(config).items() if name not in ("to", "overwrite")}
    marker = {"made_by": "cxr phantom", "version": version, "complete": complete, "config": settings}
    # in place: a temporary file left by a kill would make the directory somebody else's
    (config.to / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def write_phantoms(config: PhantomConfig, progress: bool = False) -> PhantomSummary:
    """Writes the data set, with a progress bar on stderr if asked for; the same config gives the same bytes.

    Raises:
      InputError: more duplicates than images to copy.
      OutputError: the directory holds something else or cannot be written.
    """
    pictures, copies = _plan(config)
    try:
        _prepare(config)
        for picture in progress_bar(pictures, "drawing", not progress, unit=" images"):
            (config.to / picture.path).write_bytes(_render(picture, config))
        for original, copy in copies:
            (config.to / copy).write_bytes((config.to / original).read_bytes())
        _mark(config, complete=True)
    except OSError as error:
        raise OutputError(
            f"Cannot write phantoms to {config.to}: {error.strerror or error} ({error.filename or config.to}). "
            "Choose a directory with --to that you may write to and that has space; "
            "add --overwrite to replace a set that was left incomplete."
        ) from error

    drawn = [p.path for p in pictures if not p.fault] + [copy for _, copy in copies]
    whole = Counter(path.rpartition("/")[0] for path in drawn)
    counts = {split: {label: whole[f"{split}/{label}"] for label in CLASSES} for split in SPLITS}
    broken = [(p.path, FAULTS[p.fault]) for p in pictures if p.fault]
    return PhantomSummary(config.to, counts, len(pictures) + len(copies), copies, broken)


def run(given: Given) -> int:
    """Writes the set that a command line describes."""
    summary = write_phantoms(given.make(PhantomConfig), progress=True)
    print(f"Wrote {summary.files} files to {summary.to}")
    print(f"{'':8}{CLASSES[0]:>10}{CLASSES[1]:>12}")
    for split, of in summary.counts.items():
        print(f"{split:8}{of[CLASSES[0]]:>10}{of[CLASSES[1]]:>12}")
    for name, pairs, between in (("duplicates", summary.duplicates, " = "), ("broken files", summary.broken, ": ")):
        print(f"{name} planted: {len(pairs)}")
        for one, other in pairs:
            print(f"  {one}{between}{other}")
    return EXIT_OK


COMMAND = Command(
    "phantom",
    "Writes a synthetic chest X-ray data set: train, val and test folders with NORMAL and PNEUMONIA, named, sized and "
    "split by patient like the public Kermany set. The same options give the same bytes.",
    run, PhantomConfig,
)  # fmt: skip
main = COMMAND.main

if __name__ == "__main__":
    raise SystemExit(run_command(main))

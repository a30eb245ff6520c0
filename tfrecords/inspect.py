"""`cxr inspect`: what is in a data set, as tables, whole records and a contact sheet."""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tabulate import tabulate

from cxr.console import format_bytes, run_command
from cxr.errors import DatasetError, InputError, OutputError
from tfrecords.format.framing import read_records
from tfrecords.format.manifest import Manifest, read_manifest
from tfrecords.format.schema import Record
from tfrecords.format.shards import AUDIT_NAME, FULL_RUNG
from tfrecords.images import codec
from tfrecords.summary import manifest_tables

TILE = 224
"""Side of an image on the contact sheet, pixels."""
_CAPTION = 34
_COLUMNS = 6
_LOOK_AT = 40
"""Images looked at for each one on the contact sheet; bounds the search for a rare label."""


def read_split(root: Path, manifest: Manifest, rung: str, split: str) -> Iterator[Record]:
    """Yields the records of one split of one rung, in order.

    Raises:
      CorruptError, DatasetError: a shard is damaged or missing.
    """
    schema = manifest.schema(rung)
    for path in manifest.shard_paths(root, rung, split):
        for framed in read_records(path):
            yield schema.parse(framed.data)


def label_names(manifest: Manifest, record: Record) -> str:
    """The label of a record by name; several joined by '|'."""
    indices = record.labels
    if any(not 0 <= index < len(manifest.labels) for index in indices):
        raise DatasetError(f"label {record.label} of {record.path}; the data set has {len(manifest.labels)} labels")
    return "|".join(manifest.labels[index] for index in indices) or "(none)"


def describe_record(manifest: Manifest, record: Record) -> str:
    """One record whole, as a table; the image as what it decodes to."""
    pixels = codec.decode(record)
    rows = [
        ["image", f"{format_bytes(len(record.image))} of {record.encoding}"],
        ["decoded", f"{pixels.dtype} {list(pixels.shape)}, {pixels.min()} to {pixels.max()}, mean {pixels.mean():.1f}"],
    ]
    for name in ("height", "width", "channels", "bit_depth", "label", "cause", "patient", "path", "pixel_hash"):
        value = getattr(record, name)
        rows.append([name, f"{value} ({label_names(manifest, record)})" if name == "label" else value])
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def contact_sheet(root: Path, manifest: Manifest, split: str, count: int) -> Image.Image:
    """Draws `count` images of a split, as many of each label as possible, with label, cause and patient.

    Where a label is rare, the search ends after 40 times as many images as are drawn.

    Args:
      root: the data set.
      manifest: of it.
      split: name of the split.
      count: number of images, at least 1.

    Returns:
      A grey or colour picture.
    """
    rungs = sorted((rung.size, name) for name, rung in manifest.rungs.items() if rung.size and rung.size >= TILE)
    rung = rungs[0][1] if rungs else FULL_RUNG
    share = math.ceil(count / len(manifest.labels))
    chosen: dict[str, list[Record]] = collections.defaultdict(list)
    spare: list[Record] = []
    for record in itertools.islice(read_split(root, manifest, rung, split), _LOOK_AT * count):
        label = label_names(manifest, record)
        if len(chosen[label]) < share:
            chosen[label].append(record)
        elif len(spare) < count:
            spare.append(record)
        if sum(map(len, chosen.values())) >= count:
            break
    records = [record for label in sorted(chosen) for record in chosen[label]]
    records = (records + spare)[:count]
    columns = min(_COLUMNS, max(1, len(records)))
    size = (columns * TILE, math.ceil(len(records) / columns) * (TILE + _CAPTION))
    sheet = Image.new("RGB", size, "black")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for number, record in enumerate(records):
        left, top = number % columns * TILE, number // columns * (TILE + _CAPTION)
        pixels = _to_uint8(codec.decode(record))
        tile = Image.fromarray(pixels[..., 0] if record.channels == 1 else pixels)
        tile.thumbnail((TILE - 4, TILE - 4), Image.Resampling.BOX)
        sheet.paste(tile, (left + (TILE - tile.width) // 2, top + (TILE - tile.height) // 2))
        draw.text((left + 4, top + TILE), f"{label_names(manifest, record)}  {record.cause}", "white", font)
        draw.text((left + 4, top + TILE + 15), f"{record.patient}"[:34], (160, 160, 160), font)
    return sheet


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)


def build_parser() -> argparse.ArgumentParser:
    """The command line of `cxr inspect`."""
    parser = argparse.ArgumentParser(prog="cxr inspect", description="Shows what is in a data set.")
    parser.add_argument("data", metavar="DIR", help="a data set written by `cxr preprocess`")
    parser.add_argument("--split", metavar="S", help="split to show records of (the first)")
    parser.add_argument("--rung", default=FULL_RUNG, help="rung to show records of (full)")
    parser.add_argument("--show", type=int, default=1, metavar="N", help="print N records whole (1)")
    parser.add_argument("--save-grid", metavar="PNG", help="write a contact sheet of example images")
    parser.add_argument("--grid-images", type=int, default=18, metavar="N", help="images on the contact sheet (18)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cxr inspect`; returns the exit status."""
    arguments = build_parser().parse_args(argv)
    root = Path(arguments.data)
    manifest = read_manifest(root)
    split = arguments.split or next(iter(manifest.splits))
    _check_name("split", split, manifest.splits)
    _check_name("rung", arguments.rung, manifest.rungs)
    if arguments.show < 0:
        raise InputError(f"--show: expected 0 or more, received {arguments.show}")
    if arguments.grid_images < 1:
        raise InputError(f"--grid-images: expected 1 or more, received {arguments.grid_images}")
    print(f"{root}: data set '{manifest.name}', labels by {manifest.options.get('labels', '?')}\n")
    print(manifest_tables(manifest))
    for warning in _read_warnings(root):
        print(f"WARNING {warning}")
    for number, record in enumerate(read_split(root, manifest, arguments.rung, split)):
        if number == arguments.show:
            break
        print(f"\nrecord {number} of {arguments.rung}/{split}\n{describe_record(manifest, record)}")
    if arguments.save_grid:
        sheet = contact_sheet(root, manifest, split, arguments.grid_images)
        try:
            sheet.save(arguments.save_grid)
        except (OSError, ValueError) as error:
            raise OutputError(f"cannot write the contact sheet {arguments.save_grid}: {error}") from error
        print(f"\ncontact sheet of {split}: {arguments.save_grid}")
    return 0


def _check_name(kind: str, name: str, names: dict) -> None:
    if name not in names:
        raise InputError(f"--{kind}: the data set has no {kind} {name!r}; expected one of {', '.join(names)}")


def _read_warnings(root: Path) -> list[str]:
    try:
        return json.loads((root / AUDIT_NAME).read_text(encoding="utf-8"))["warnings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"cannot read {root / AUDIT_NAME}: {error}") from error


if __name__ == "__main__":
    raise SystemExit(run_command(main))

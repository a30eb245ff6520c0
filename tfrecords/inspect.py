"""`cxr inspect`: what is in a data set, as tables, whole records and a contact sheet."""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from tabulate import tabulate

from cxr.command import Command, Given
from cxr.console import format_bytes, run_command
from cxr.errors import DatasetError, InputError, OutputError
from cxr.files import read_json
from cxr.kinds import Text, Whole, directory, file_path
from cxr.options import Options, nearest, option, options
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
    if manifest.unknown_labels:
        unknown = "|".join(manifest.labels[index] for index in record.unknown)
        rows.append(["not known", unknown or "(none)"])
    names = ("height", "width", "channels", "bit_depth", "label", "cause", "patient", *manifest.groups)
    for name in (*names, "path", "pixel_hash"):
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
        pixels = codec.lower_depth(codec.decode(record))
        tile = Image.fromarray(pixels[..., 0] if record.channels == 1 else pixels)
        tile.thumbnail((TILE - 4, TILE - 4), Image.Resampling.BOX)
        sheet.paste(tile, (left + (TILE - tile.width) // 2, top + (TILE - tile.height) // 2))
        draw.text((left + 4, top + TILE), f"{label_names(manifest, record)}  {record.cause}", "white", font)
        draw.text((left + 4, top + TILE + 15), f"{record.patient}"[:34], (160, 160, 160), font)
    return sheet


@options
class InspectOptions(Options):
    """What `cxr inspect` shows."""

    data: str = option(directory(), "a data set written by `cxr preprocess`", positional=True)
    split: str | None = option(Text(metavar="NAME"), "split to show records of", default=None, unset="the first")
    rung: str = option(Text(metavar="NAME"), "rung to show records of", default=FULL_RUNG)
    show: int = option(Whole(0), "records to print whole", default=1)
    save_grid: str | None = option(file_path("PNG"), "write a contact sheet of example images", default=None)
    grid_images: int = option(Whole(1), "images on the contact sheet", default=18)


def run(given: Given) -> int:
    """Prints what is in the data set of a command line."""
    asked = given.make(InspectOptions)
    root = Path(asked.data)
    manifest = read_manifest(root)
    split = asked.split or next(iter(manifest.splits))
    _check_name("split", split, manifest.splits)
    _check_name("rung", asked.rung, manifest.rungs)
    print(f"{root}: data set '{manifest.name}', labels by {manifest.options.get('labels', '?')}\n")
    print(manifest_tables(manifest))
    for warning in _read_warnings(root):
        print(f"WARNING {warning}")
    for number, record in enumerate(read_split(root, manifest, asked.rung, split)):
        if number == asked.show:
            break
        print(f"\nrecord {number} of {asked.rung}/{split}\n{describe_record(manifest, record)}")
    if asked.save_grid:
        sheet = contact_sheet(root, manifest, split, asked.grid_images)
        try:
            sheet.save(asked.save_grid)
        except (OSError, ValueError) as error:
            raise OutputError(f"cannot write the contact sheet {asked.save_grid}: {error}") from error
        print(f"\ncontact sheet of {split}: {asked.save_grid}")
    return 0


def _check_name(kind: str, name: str, names: dict) -> None:
    if name not in names:
        hint = nearest(name, names)
        raise InputError(f"--{kind} {name}: expected one of {', '.join(names)}, which the data set has{hint}")


def _read_warnings(root: Path) -> list[str]:
    audit = read_json(root / AUDIT_NAME)
    if "warnings" not in audit:
        raise DatasetError(f"{root / AUDIT_NAME} is damaged: it has no entry 'warnings'")
    return audit["warnings"]


COMMAND = Command("inspect", "Shows what is in a data set.", run, InspectOptions)
main = COMMAND.main

if __name__ == "__main__":
    raise SystemExit(run_command(main))

"""The index: what the source says of each image together with what its header says.

Listing is done by the driver, headers are read in tasks of a few hundred images. Only rows of text cross
from one process to another; a task writes its rows to a file of the work directory, so an interrupted
job does not read the headers again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import blake3

from beam_jobs.sources.source_image import SourceImage
from beam_jobs.sources.stores import Store
from cxr.errors import ImageError
from cxr.files import write_atomically
from tfrecords.images.codec import hash_pixels, raise_depth
from tfrecords.images.decode import ImageHeader, count_bits_in_use, decode, read_header
from tfrecords.images.scale import FULL

HEAD_BYTES = 1 << 16
"""Enough of a file for the header of nearly every image; the rest is read where it is not."""

LARGEST_HEADER = 1 << 26
"""Bytes that a file may hold besides its pixels."""

TASK_IMAGES = 256
"""Images in one task: a second of work, so that workers share even a small source."""

THREADS = 4
"""Threads a task reads with: headers are small, so waiting for the disk is what takes time."""


@dataclasses.dataclass(frozen=True)
class IndexRow:
    """One image of the source.

    Attributes:
      image: what the source says.
      header: what the file's header says, or None where it cannot be read.
      reject: why the image cannot be used, or None.
      pixel_hash: of the decoded pixels, where duplicates have to be known before writing.
      bits_in_use: of an image of 16 bits whose file does not state its scale, see `tfrecords.images.scale`.
    """

    image: SourceImage
    header: ImageHeader | None
    reject: str | None = None
    pixel_hash: str | None = None
    bits_in_use: int | None = None

    def to_json(self) -> str:
        """The row as one line of JSON."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> IndexRow:
        """The row that `to_json` wrote."""
        row = json.loads(line)
        row["image"] |= {name: tuple(row["image"][name]) for name in ("labels", "unknown")}
        image, header = SourceImage(**row.pop("image")), row.pop("header")
        if header is not None:
            header["quantisation"] = tuple(header["quantisation"])
        return cls(image, header and ImageHeader(**header), **row)


def scan_image(source: Store, image: SourceImage, max_pixels: int, salt: str) -> IndexRow:
    """Reads the header of one image; what is wrong with it becomes the row's `reject`."""
    limit = max_pixels * 8 + LARGEST_HEADER
    if image.bytes > limit:  # a decompression bomb in a zip, or no image at all
        return IndexRow(image, None, f"{image.bytes} bytes; an image within --max-megapixels has at most {limit}")
    try:
        head = source.read(image.path, HEAD_BYTES)
        try:
            return IndexRow(image, read_header(head, max_pixels, salt))
        except ImageError:
            if image.bytes <= len(head):
                raise
        return IndexRow(image, read_header(source.read(image.path), max_pixels, salt))
    except ImageError as error:
        return IndexRow(image, None, str(error))


def count_bits(source: Store, row: IndexRow, max_pixels: int) -> IndexRow:
    """Decodes one image and adds the number of bits that its values use."""
    try:
        return dataclasses.replace(row, bits_in_use=count_bits_in_use(source.read(row.image.path), max_pixels))
    except ImageError as error:
        return dataclasses.replace(row, reject=str(error))


def hash_image(source: Store, row: IndexRow, max_pixels: int, bit_depth: int, scale: int = FULL) -> IndexRow:
    """Decodes one image and adds the hash of its pixels, as they are stored in a data set of that depth and scale."""
    try:
        pixels = decode(source.read(row.image.path), max_pixels, scale).pixels
    except ImageError as error:
        return dataclasses.replace(row, reject=str(error))
    return dataclasses.replace(row, pixel_hash=hash_pixels(raise_depth(pixels, bit_depth)))


def run_task(task: Path, work: Callable[[IndexRow], IndexRow], report: Callable[[int, int], None]) -> list[IndexRow]:
    """Applies `work` to the rows of a task file, and writes those it returns beside it, atomically and once.

    `report` is called with (images, bytes) as they are done. Returns the rows of the result.
    """
    result = result_path(task)
    if result.exists():
        return list(read_rows(result))
    with ThreadPoolExecutor(THREADS) as pool:
        rows = []
        for row in pool.map(work, read_rows(task)):
            rows.append(row)
            report(1, row.image.bytes)
    write_rows(result, rows)
    return rows


def write_tasks(folder: Path, rows: Iterable[IndexRow]) -> list[Path]:
    """Cuts rows into task files below `folder`, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered, tasks = list(rows), []
    for number, start in enumerate(range(0, len(ordered), TASK_IMAGES)):
        part = ordered[start : start + TASK_IMAGES]
        # named by its content, so that the result of a task with other images, or older ones, is not taken for its own
        content = blake3.blake3("".join(row.to_json() for row in part).encode()).hexdigest(8)
        tasks.append(folder / f"{number:06d}-{content}.jsonl")
        write_rows(tasks[-1], part)
    return tasks


def result_path(task: Path) -> Path:
    """Where `run_task` writes the rows of a task."""
    return task.with_suffix(".done.jsonl")


def write_rows(path: Path, rows: Iterable[IndexRow]) -> None:
    """Writes rows as JSON lines, atomically."""
    write_atomically(path, "".join(row.to_json() + "\n" for row in rows))


def read_rows(path: Path) -> Iterator[IndexRow]:
    """The rows of a file."""
    with open(path, encoding="utf-8") as file:
        yield from map(IndexRow.from_json, file)


def fingerprint_listing(images: Iterable[SourceImage]) -> str:
    """BLAKE3 over what a source lists, whatever the order: paths, sizes, labels, splits, patients.

    Not the modification times: they differ between copies of the same source.
    """
    hasher = blake3.blake3()
    for image in sorted(images, key=lambda image: image.path):
        fields: dict[str, Any] = dataclasses.asdict(image)
        del fields["modified"]
        hasher.update(json.dumps(fields, sort_keys=True).encode())
    return hasher.hexdigest()

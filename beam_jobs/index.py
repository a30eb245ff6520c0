"""The index: what the source says of each image together with what its header says.

Listing is done by the driver, headers are read in tasks of a few hundred images. Only rows of text cross
from one process to another; a task writes its rows to a file of the work directory, so an interrupted
job does not read the headers again.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import blake3

from beam_jobs.decode import ImageHeader, decode, read_header
from beam_jobs.sources import Source, SourceImage
from tfrecords.codec import hash_pixels
from tfrecords.errors import ImageError

HEAD_BYTES = 1 << 16
"""Enough of a file for the header of nearly every image; the rest is read where it is not."""

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
    """

    image: SourceImage
    header: ImageHeader | None
    reject: str | None = None
    pixel_hash: str | None = None

    def to_json(self) -> str:
        """The row as one line of JSON."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> IndexRow:
        """The row that `to_json` wrote."""
        row = json.loads(line)
        row["image"]["labels"] = tuple(row["image"]["labels"])
        header = row["header"]
        if header is not None:
            header["quantisation"] = tuple(header["quantisation"])
        return cls(SourceImage(**row["image"]), header and ImageHeader(**header), row["reject"], row["pixel_hash"])


def scan_image(source: Source, image: SourceImage, max_pixels: int, salt: str) -> IndexRow:
    """Reads the header of one image; what is wrong with it becomes the row's `reject`."""
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


def hash_image(source: Source, row: IndexRow, max_pixels: int) -> IndexRow:
    """Decodes one image and adds the hash of its pixels."""
    try:
        pixels = decode(source.read(row.image.path), max_pixels).pixels
    except ImageError as error:
        return dataclasses.replace(row, reject=str(error))
    return dataclasses.replace(row, pixel_hash=hash_pixels(pixels))


def run_task(task: Path, work: Callable[[IndexRow], IndexRow], report: Callable[[int, int], None]) -> None:
    """Applies `work` to the rows of `task` and writes the result beside it, atomically and once.

    Args:
      task: a file of rows.
      work: from row to row.
      report: called with (images, bytes) as they are done.
    """
    result = result_path(task)
    if result.exists():
        return
    with ThreadPoolExecutor(THREADS) as pool:
        rows = []
        for row in pool.map(work, read_rows(task)):
            rows.append(row)
            report(1, row.image.bytes)
    write_rows(result, rows)


def write_tasks(folder: Path, rows: Iterable[IndexRow]) -> list[Path]:
    """Cuts rows into task files below `folder`, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = list(rows)
    tasks = []
    for number, start in enumerate(range(0, len(ordered), TASK_IMAGES)):
        tasks.append(folder / f"{number:06d}.jsonl")
        write_rows(tasks[-1], ordered[start : start + TASK_IMAGES])
    return tasks


def result_path(task: Path) -> Path:
    """Where `run_task` writes the rows of a task."""
    return task.with_suffix(".done.jsonl")


def write_rows(path: Path, rows: Iterable[IndexRow]) -> None:
    """Writes rows as JSON lines under a temporary name, then renames."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.writelines(row.to_json() + "\n" for row in rows)
    temporary.replace(path)


def read_rows(path: Path) -> Iterator[IndexRow]:
    """The rows of a file."""
    with open(path, encoding="utf-8") as file:
        yield from map(IndexRow.from_json, file)


def fingerprint_listing(images: Iterable[SourceImage], with_times: bool) -> str:
    """BLAKE3 over what a source lists, whatever the order: paths, sizes, labels, splits, patients.

    Args:
      images: in any order.
      with_times: modification times too, which tell a changed file but differ between copies.
    """
    hasher = blake3.blake3()
    for image in sorted(images, key=lambda image: image.path):
        fields: dict[str, Any] = dataclasses.asdict(image)
        if not with_times:
            del fields["modified"]
        hasher.update(json.dumps(fields, sort_keys=True).encode())
    return hasher.hexdigest()

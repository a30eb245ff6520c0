"""Where each record of a split lies and what it shows, as arrays: what random access and planning need."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import blake3
import numpy as np

from cxr.errors import CorruptError, DatasetError
from tfrecords.format.framing import FOOTER_BYTES, HEADER_BYTES, check_data, check_header
from tfrecords.format.manifest import Manifest
from tfrecords.format.rules import Rules
from tfrecords.format.schema import ENCODINGS, Record
from tfrecords.format.shards import is_shard_name
from tfrecords.images.codec import wrong_raw_size
from tfrecords.streaming.scan import scan_record

OnCorrupt = Literal["error", "skip"]
_Columns = dict[str, np.ndarray]
_COLUMNS = ("shard", "number", "offset", "length", "image", "encoding", "shape", "label")
_Scanned = tuple[_Columns, list[DatasetError]]
_Row = tuple[int, int, int, tuple[int, int], Record]
"""Number, offset, length and image as in `SplitIndex`, and the record without its image."""
_LARGEST_SIDE = 1 << 20
_SCANNERS = 8
"""Shards scanned at the same time where the time goes into waiting for small reads, as on a network."""


@dataclasses.dataclass(frozen=True, eq=False)
class SplitIndex:
    """The readable records of one split of one rung, in stored order: n records, one row each.

    Attributes:
      paths: shard files.
      faults: what was skipped, one for each record that cannot be read, and one for each file that is not
        there or should not be; empty where faults are errors.
      lost: how many of the records that the manifest promises cannot be read.
      shard: int32 [n], index into `paths`.
      number: int32 [n], index of the record in its shard.
      offset: int64 [n], byte offset of the record's data in its shard.
      length: int64 [n], bytes of data.
      image: int64 [n, 2], where in the data the image begins and ends.
      encoding: uint8 [n], index into `schema.ENCODINGS`.
      shape: int32 [n, 3], height, width, channels.
      label: int32 [n], or uint8 [n, labels] of 0 and 1 in a multi-label data set.
    """

    paths: tuple[Path, ...]
    faults: tuple[DatasetError, ...]
    lost: int
    shard: np.ndarray
    number: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    image: np.ndarray
    encoding: np.ndarray
    shape: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def digest(self) -> str:
        """BLAKE3 of all arrays, 64 hex digits: equal where every row means the same record."""
        hasher = blake3.blake3()
        for name in _COLUMNS:
            hasher.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return hasher.hexdigest()


def build_index(root: Path, manifest: Manifest, rung: str, split: str, on_corrupt: OnCorrupt = "error") -> SplitIndex:
    """Scans the shards of one split of one rung.

    Args:
      root: the data set.
      manifest: of the data set.
      rung: name of the rung.
      split: name of the split.
      on_corrupt: `error` raises at the first fault in framing, layout or the manifest's promises, and leaves
        the CRC of the data to whoever reads it. `skip` leaves out what is faulty, and therefore reads
        everything once and checks every CRC.

    Raises:
      CorruptError: names file, record and byte offset.
      DatasetError: a shard is missing or one too many.
    """
    paths = tuple(manifest.shard_paths(root, rung, split))
    promised = [shard.records for shard in manifest.rungs[rung].shards[split]]
    faults = list(_foreign_shards(root, manifest, rung, split))
    _raise_first(faults, on_corrupt)
    tasks = [
        functools.partial(_scan_shard, position, path, records, manifest, rung, on_corrupt)
        for position, (path, records) in enumerate(zip(paths, promised, strict=True))
    ]
    parts = [_to_columns([], 0, manifest)]  # a split may have no shard
    for part, found in _run(tasks):
        _raise_first(found, on_corrupt)
        parts.append(part)
        faults += found
    columns = {name: np.concatenate([part[name] for part in parts]) for name in _COLUMNS}
    return SplitIndex(paths, tuple(faults), lost=sum(promised) - len(columns["offset"]), **columns)


def _run(tasks: Sequence[Callable[[], _Scanned]]) -> Iterator[_Scanned]:
    """Results in order. After a first task that waited longer than it worked, the others run in threads."""
    if not tasks:
        return
    wall, work = time.perf_counter(), time.thread_time()
    yield tasks[0]()
    worked = time.thread_time() - work
    if time.perf_counter() - wall < 2 * worked:
        for task in tasks[1:]:
            yield task()
        return
    with ThreadPoolExecutor(_SCANNERS) as pool:
        running = [pool.submit(task) for task in tasks[1:]]
        try:
            for future in running:
                yield future.result()
        finally:
            for future in running:
                future.cancel()


def _raise_first(faults: list[DatasetError], on_corrupt: OnCorrupt) -> None:
    if faults and on_corrupt == "error":
        raise faults[0]


def _foreign_shards(root: Path, manifest: Manifest, rung: str, split: str) -> Iterator[DatasetError]:
    """A shard of this split that the manifest does not know, such as one left by a run with other numbers."""
    known = set(manifest.shard_paths(root, rung, split))
    for path in sorted((root / rung).glob(f"{manifest.name}-{split}.tfrecord-*")):
        if is_shard_name(path.name) and path not in known:
            yield DatasetError(
                f"{path} is not one of the {len(known)} shards that the manifest lists for split '{split}'; "
                "it was left by another run. Remove it, or run `cxr verify` to see what belongs together"
            )


def _scan_shard(
    position: int, path: Path, promised: int, manifest: Manifest, rung: str, on_corrupt: OnCorrupt
) -> _Scanned:
    """(the columns of the index for one shard, what is wrong with it: the first fault, or all to be skipped)."""
    rows: list[_Row] = []
    faults: list[DatasetError] = []
    for found in _walk_shard(path, promised, Rules.of(manifest, rung), check=on_corrupt == "skip"):
        if not isinstance(found, DatasetError):
            rows.append(found)
            continue
        faults.append(found)
        if on_corrupt == "error":
            break
    return _to_columns(rows, position, manifest), faults


def _to_columns(rows: list[_Row], position: int, manifest: Manifest) -> _Columns:
    """The rows of one shard as columns of the index."""
    records = [row[-1] for row in rows]
    if manifest.multi_label:
        label = np.zeros((len(rows), len(manifest.labels)), np.uint8)
        for place, record in enumerate(records):
            label[place, list(record.labels)] = 1
    else:
        label = np.array([record.label for record in records], np.int32)
    return {
        "shard": np.full(len(rows), position, np.int32),
        "number": np.array([row[0] for row in rows], np.int32),
        "offset": np.array([row[1] for row in rows], np.int64),
        "length": np.array([row[2] for row in rows], np.int64),
        "image": np.array([row[3] for row in rows], np.int64).reshape(-1, 2),
        "encoding": np.array([ENCODINGS.index(record.encoding) for record in records], np.uint8),
        "shape": np.array([(one.height, one.width, one.channels) for one in records], np.int32).reshape(-1, 3),
        "label": label,
    }


def _walk_shard(path: Path, promised: int, rules: Rules, check: bool) -> Iterator[_Row | DatasetError]:
    """Yields (number, offset, length, image, record) of each of the promised records, or what is wrong."""
    descriptor = -1
    try:
        descriptor = os.open(path, os.O_RDONLY)
        size = os.fstat(descriptor).st_size
        start = 0
        for number in range(promised):
            if start >= size:
                yield CorruptError(path, number, start, f"the file ends; the manifest says {promised} records")
                return
            fault, length = check_header(os.pread(descriptor, HEADER_BYTES, start), size - start)
            if fault is not None:
                yield CorruptError(path, number, start, fault)
                return  # without a length nothing more can be found
            offset = start + HEADER_BYTES
            if check:
                fault = check_data(
                    os.pread(descriptor, length, offset), os.pread(descriptor, FOOTER_BYTES, offset + length)
                )
            if fault is None:
                try:
                    record, image = scan_record(descriptor, offset, length, rules.schema)
                    fault = rules.broken_by(record) or _wrong_size(record, image[1] - image[0])
                except DatasetError as error:
                    fault = str(error)
            if fault is None:
                yield number, offset, length, image, record
            else:
                yield CorruptError(path, number, start, fault)
            start = offset + length + FOOTER_BYTES
        if start < size:
            yield CorruptError(
                path, promised, start, f"{size - start} bytes more than the manifest's {promised} records"
            )
    except OSError as error:
        yield DatasetError(f"cannot read the shard {path}: {error.strerror}")
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _wrong_size(record: Record, image_bytes: int) -> str | None:
    """What is wrong with the shape of an image, or with the number of bytes of a raw one, or None."""
    shape = (record.height, record.width, record.channels)
    if not 1 <= min(shape) <= max(shape) <= _LARGEST_SIDE:
        return f"shape {shape}; expected 1 to {_LARGEST_SIDE} pixels a side"
    return wrong_raw_size(image_bytes, shape, record.bit_depth) if record.encoding == "raw" else None

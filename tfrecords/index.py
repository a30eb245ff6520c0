"""Where each record of a split lies and what it shows, as arrays: what random access and planning need."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from tfrecords.errors import CorruptError, DatasetError
from tfrecords.framing import FOOTER_BYTES, HEADER_BYTES, check_data, check_header
from tfrecords.manifest import Manifest
from tfrecords.rules import Rules
from tfrecords.scan import scan_record
from tfrecords.schema import ENCODINGS, Record
from tfrecords.shards import is_shard_name, shard_name

OnCorrupt = Literal["error", "skip"]


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
      DatasetError: a shard is missing, one too many, or has other records than the manifest says.
    """
    paths = tuple(manifest.shard_paths(root, rung, split))
    faults: list[DatasetError] = list(_foreign_shards(root, manifest, rung, split))
    rows: list[tuple] = []
    for position, (path, promised) in enumerate(zip(paths, manifest.rungs[rung].shards[split], strict=True)):
        found = 0
        for row in _scan_shard(path, manifest, rung, check=on_corrupt == "skip"):
            if isinstance(row, DatasetError):
                faults.append(row)
            else:
                found += 1
                rows.append((position, *row))
            if faults and on_corrupt == "error":
                raise faults[0]
        if on_corrupt == "error" and found != promised.records:
            raise DatasetError(
                f"{path} has {found} records; the manifest says {promised.records}. The file was cut off or written "
                "by another run: run `cxr verify`, and `cxr preprocess` again"
            )
    if faults and on_corrupt == "error":
        raise faults[0]
    promised_records = sum(shard.records for shard in manifest.rungs[rung].shards[split])
    return _to_arrays(rows, paths, tuple(faults), promised_records - len(rows), manifest)


def _to_arrays(
    rows: list[tuple], paths: tuple[Path, ...], faults: tuple[DatasetError, ...], lost: int, manifest: Manifest
) -> SplitIndex:
    shard, number, offset, length, image, encoding, shape, labels = zip(*rows, strict=True) if rows else ((),) * 8
    if manifest.multi_label:
        label = np.zeros((len(rows), len(manifest.labels)), np.uint8)
        for row, present in enumerate(labels):
            label[row, list(present)] = 1
    else:
        label = np.array([present[0] for present in labels], np.int32)
    return SplitIndex(
        paths,
        faults,
        lost,
        shard=np.array(shard, np.int32),
        number=np.array(number, np.int32),
        offset=np.array(offset, np.int64),
        length=np.array(length, np.int64),
        image=np.array(image, np.int64).reshape(-1, 2),
        encoding=np.array(encoding, np.uint8),
        shape=np.array(shape, np.int32).reshape(-1, 3),
        label=label,
    )


def _foreign_shards(root: Path, manifest: Manifest, rung: str, split: str) -> Iterator[DatasetError]:
    """A shard of this split that the manifest does not know, such as one left by a run with other numbers."""
    count = len(manifest.rungs[rung].shards[split])
    known = {shard_name(manifest.name, split, index, count) for index in range(count)}
    for path in sorted((root / rung).glob(f"{manifest.name}-{split}.tfrecord-*")):
        if is_shard_name(path.name) and path.name not in known:
            yield DatasetError(
                f"{path} is not one of the {count} shards that the manifest lists for split '{split}'; "
                "it was left by another run. Remove it, or run `cxr verify` to see what belongs together"
            )


def _scan_shard(path: Path, manifest: Manifest, rung: str, check: bool) -> Iterator[tuple | DatasetError]:
    """Yields for each record (number, offset, length, image, encoding, shape, labels), or what is wrong with it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        yield DatasetError(f"cannot read the shard {path}: {error.strerror}")
        return
    rules = Rules.of(manifest, rung)
    try:
        size = os.fstat(descriptor).st_size
        number = start = 0
        while start < size:
            fault, length = check_header(os.pread(descriptor, HEADER_BYTES, start), size - start)
            if fault is not None:
                yield CorruptError(path, number, start, fault)
                return  # without a length nothing more can be found
            offset = start + HEADER_BYTES
            if check:
                frame = os.pread(descriptor, length + FOOTER_BYTES, offset)
                fault = check_data(frame[:length], frame[length:])
            if fault is None:
                try:
                    record, image = scan_record(descriptor, offset, length, rules.schema)
                    fault = rules.broken_by(record) or _wrong_size(record, image[1] - image[0])
                except DatasetError as error:
                    fault = str(error)
            if fault is None:
                shape = (record.height, record.width, record.channels)
                yield number, offset, length, image, ENCODINGS.index(record.encoding), shape, record.labels
            else:
                yield CorruptError(path, number, start, fault)
            number += 1
            start = offset + length + FOOTER_BYTES
    finally:
        os.close(descriptor)


def _wrong_size(record: Record, image_bytes: int) -> str | None:
    """What is wrong with the shape of an image, or with the number of bytes of a raw one, or None."""
    shape = (record.height, record.width, record.channels)
    if min(shape) < 1:
        return f"shape {shape}; expected at least 1 x 1 pixels"
    needed = math.prod(shape) * record.bit_depth // 8
    if record.encoding != "raw" or image_bytes == needed:
        return None
    return f"raw image of {image_bytes} bytes; {shape} at {record.bit_depth} bits needs {needed}"

"""Where each record of a split lies and what it shows, as arrays: what random access and planning need."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import blake3
import numpy as np

from cxr.errors import CorruptError, DatasetError
from tfrecords.format.framing import FOOTER_BYTES, HEADER_BYTES, check_data
from tfrecords.format.manifest import RUNG_ENCODINGS, Manifest, Shard
from tfrecords.format.schema import ENCODINGS
from tfrecords.format.shard_index import UNKNOWN, TextColumn, number_columns, read_numbers, read_texts
from tfrecords.format.shards import index_path, is_shard_name

OnCorrupt = Literal["error", "skip"]
_COLUMNS = ("shard", "number", "offset", "length", "crc", "image", "encoding", "shape", "label")
_LARGEST_SIDE = 1 << 20
_THREADS = 8
"""Shards that are opened or checked at the same time: on a network most of the time is waiting."""


@dataclasses.dataclass(frozen=True, eq=False)
class SplitIndex:
    """The readable records of one split of one rung, in stored order: n records, one row each.

    Attributes:
      paths: shard files.
      shards: what the manifest says of each of them.
      faults: what was skipped: one for each record that cannot be read, and one for each file that is missing,
        damaged, of the wrong size or not in the manifest; empty where faults are errors.
      lost: how many of the records that the manifest promises cannot be read.
      shard: int32 [n], index into `paths`.
      number: int32 [n], index of the record in its shard.
      offset: int64 [n], byte offset of the record's data in its shard.
      length: int64 [n], bytes of data.
      crc: uint32 [n], masked CRC32C of the data.
      image: int64 [n, 2], where in the data the image begins and ends.
      encoding: uint8 [n], index into `schema.ENCODINGS`.
      shape: int32 [n, 3], height, width, channels.
      label: int32 [n], or uint8 [n, labels] of 0, 1 and `shard_index.UNKNOWN` in a multi-label data set.
    """

    paths: tuple[Path, ...]
    shards: tuple[Shard, ...]
    faults: tuple[DatasetError, ...]
    lost: int
    shard: np.ndarray
    number: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    crc: np.ndarray
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

    def truth(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Labels as a stream gives them: int32 [rows], or float32 [rows, labels] of 0, 1 and NaN for not known."""
        if self.label.ndim == 1:
            return self.label[rows]
        labels = self.label[rows]
        return np.where(labels == UNKNOWN, np.float32(np.nan), labels).astype(np.float32, copy=False)

    def texts(self, name: str, rows: np.ndarray) -> np.ndarray:
        """One of `shard_index.TEXTS` of the given rows: object [rows], UTF-8 bytes. Each shard's are read at first use.

        Raises:
          DatasetError: the index of a shard is damaged.
        """
        places = zip(self.shard[rows].tolist(), self.number[rows].tolist(), strict=True)
        return np.array([*(self._texts(shard, name)[number] for shard, number in places), None], object)[:-1]

    def _texts(self, shard: int, name: str) -> TextColumn:
        if (shard, name) not in self._read:
            self._read[shard, name] = read_texts(index_path(self.paths[shard]), self.shards[shard], name)
        return self._read[shard, name]

    @functools.cached_property
    def _read(self) -> dict[tuple[int, str], TextColumn]:
        return {}

    def corrupt(self, row: int, fault: str) -> CorruptError:
        """The error for a record that cannot be used."""
        place = int(self.offset[row]) - HEADER_BYTES
        return CorruptError(self.paths[self.shard[row]], int(self.number[row]), place, fault)


def build_index(root: Path, manifest: Manifest, rung: str, split: str, on_corrupt: OnCorrupt = "error") -> SplitIndex:
    """Reads the indexes of the shards of one split of one rung.

    Args:
      root: the data set.
      manifest: of the data set.
      rung: name of the rung.
      split: name of the split.
      on_corrupt: `error` reads no shard; it raises at the first fault in files' sizes, indexes or the manifest's
        promises, and leaves the CRC of the data to whoever reads it. `skip` leaves out what is faulty, and
        therefore reads everything once and checks every CRC.

    Raises:
      CorruptError: names file, record and byte offset.
      DatasetError: a shard or its index is missing, damaged, or one too many.
    """
    paths, shards = tuple(manifest.shard_paths(root, rung, split)), manifest.rungs[rung].shards[split]
    with ThreadPoolExecutor(_THREADS) as pool:
        opened = list(pool.map(functools.partial(_open_shard, manifest.label_columns), paths, shards))
    faults = list(_foreign_shards(root, manifest, rung, split)) + [fault for _, found in opened for fault in found]
    index = _join(paths, shards, [rows for rows, _ in opened], manifest.label_columns)
    bad = _broken_rows(index, manifest, rung)
    if on_corrupt == "skip":
        good = np.delete(np.arange(len(index)), list(bad))
        by_shard = np.split(good, np.searchsorted(index.shard[good], np.arange(1, len(paths))))
        with ThreadPoolExecutor(_THREADS) as pool:
            for found in pool.map(functools.partial(_unreadable_rows, index), paths, by_shard):
                bad |= found
    faults += [index.corrupt(row, fault) for row, fault in sorted(bad.items())]
    if faults and on_corrupt == "error":
        raise faults[0]
    good = np.delete(np.arange(len(index)), list(bad))
    columns = {name: getattr(index, name)[good] for name in _COLUMNS} if bad else {}
    lost = sum(shard.records for shard in shards) - len(good)
    return dataclasses.replace(index, faults=tuple(faults), lost=lost, **columns)


def _foreign_shards(root: Path, manifest: Manifest, rung: str, split: str) -> Iterator[DatasetError]:
    """A shard of this split that the manifest does not know, such as one left by a run with other numbers."""
    known = {path.name for path in manifest.shard_paths(root, rung, split)}
    folder, start = root / rung, f"{manifest.name}-{split}.tfrecord-"
    for name in sorted(set(os.listdir(folder)) - known) if folder.is_dir() else ():  # noqa: PTH208 - names alone
        if name.startswith(start) and is_shard_name(name):
            yield DatasetError(
                f"{folder / name} is not one of the {len(known)} shards that the manifest lists for split '{split}'; "
                "it was left by another run. Remove it, or run `cxr verify` to see what belongs together"
            )


def _open_shard(labels: int | None, path: Path, shard: Shard) -> tuple[np.ndarray, list[DatasetError]]:
    """(the rows of a shard's index, what is wrong with the index as a file or with the shard's size)."""
    nothing = np.empty(0, number_columns(labels))
    try:
        rows = read_numbers(index_path(path), shard, labels)
        with open(path, "rb", buffering=0) as file:
            return rows, list(_wrong_size(path, rows, shard, os.fstat(file.fileno()).st_size))
    except OSError as error:
        return nothing, [DatasetError(f"cannot read the shard {path}: {error.strerror}")]
    except DatasetError as error:
        return nothing, [error]


def _join(paths: tuple[Path, ...], shards: tuple[Shard, ...], rows: list[np.ndarray], labels: int | None) -> SplitIndex:
    """The index of all rows of all shards."""
    counts = [len(part) for part in rows]
    parts = [np.empty(0, number_columns(labels)), *rows]  # a split may have no shard
    columns = {name: np.concatenate([part[name] for part in parts]) for name in _COLUMNS[2:]}
    columns["shard"] = np.repeat(np.arange(len(rows), dtype=np.int32), counts)
    columns["number"] = np.concatenate([np.arange(count, dtype=np.int32) for count in (0, *counts)])
    return SplitIndex(paths, shards, (), 0, **columns)


def _wrong_size(path: Path, rows: np.ndarray, shard: Shard, size: int) -> Iterator[CorruptError]:
    """A shard that is shorter or longer than the manifest says, named with the first record that it concerns."""
    if size > shard.bytes:
        fault = f"{size - shard.bytes} bytes more than the manifest's {shard.records} records"
        yield CorruptError(path, shard.records, shard.bytes, fault)
    elif size < shard.bytes:
        number = int(np.count_nonzero(rows["offset"] + rows["length"] + FOOTER_BYTES <= size))
        begin = int(rows["offset"][number]) - HEADER_BYTES if number < len(rows) else size
        yield CorruptError(path, number, begin, f"truncated: the file has {size} of {shard.bytes} bytes")


def _broken_rows(index: SplitIndex, manifest: Manifest, rung: str) -> dict[int, str]:
    """By row, what is wrong with records that the manifest does not allow or whose sizes contradict each other."""
    length, shape, label, (begin, end) = index.length, index.shape, index.label, index.image.T
    names = dict(enumerate(ENCODINGS))
    raw, allowed = manifest.rungs[rung].encoding == "raw", RUNG_ENCODINGS[manifest.rungs[rung].encoding]
    channels = (manifest.channels,) if manifest.channels else (1, 3)
    needed = shape.astype(np.int64).prod(axis=1) * manifest.bit_depth // 8
    sizes = np.array([shard.bytes for shard in index.shards], np.int64)[index.shard]
    highest = len(manifest.labels) - 1 if label.ndim == 1 else UNKNOWN if manifest.unknown_labels else 1
    outside = (index.offset < HEADER_BYTES) | (index.offset + length + FOOTER_BYTES > sizes)
    checks: list[tuple[Any, Callable[[int], str]]] = [
        (
            outside | (begin < 0) | (begin > end) | (end > length),
            lambda at: f"the index places {length[at]} bytes at byte {index.offset[at]}, outside of the shard",
        ),
        (
            (label < 0) | (label > highest) if label.ndim == 1 else (label > highest).any(axis=1),
            lambda at: f"label {label[at]}; expected 0 to {highest}",
        ),
        (
            ~np.isin(index.encoding, [ENCODINGS.index(name) for name in allowed]),
            lambda at: f"encoding {names.get(index.encoding[at], 'unknown')}; expected {' or '.join(allowed)}",
        ),
        (
            ~np.isin(shape[:, 2], channels),
            lambda at: f"{shape[at, 2]} channels; expected {' or '.join(map(str, channels))}",
        ),
        (
            (shape.min(axis=1) < 1) | (shape.max(axis=1) > _LARGEST_SIDE),
            lambda at: f"shape {tuple(shape[at].tolist())}; expected 1 to {_LARGEST_SIDE} pixels a side",
        ),
        (
            (end - begin != needed) & raw,
            lambda at: (
                f"raw image of {end[at] - begin[at]} bytes; {tuple(shape[at].tolist())} at {manifest.bit_depth} bits "
                f"needs {needed[at]}"
            ),
        ),
    ]
    return {at: say(at) for broken, say in reversed(checks) for at in np.flatnonzero(broken).tolist()}


def _unreadable_rows(index: SplitIndex, path: Path, rows: np.ndarray) -> dict[int, str]:
    """By row, what is wrong with the records, all of one shard, whose data is not what was written."""
    faults: dict[int, str] = {}
    if not len(rows):  # perhaps because the shard is missing
        return faults
    try:
        with open(path, "rb") as file:
            for row in rows.tolist():
                file.seek(index.offset[row])
                length = int(index.length[row])
                if fault := check_data(file.read(length), length, int(index.crc[row])):
                    faults[row] = fault
    except OSError as error:
        return dict.fromkeys(rows.tolist(), f"cannot read the shard: {error.strerror}")
    return faults

"""`cxr verify`: holds every byte of a data set against its manifest."""

from __future__ import annotations

import collections
import dataclasses
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import blake3

from cxr.command import Command, Given
from cxr.console import EXIT_FAILED, EXIT_OK, format_bytes, progress_bar, run_command
from cxr.errors import CorruptError, CxrError, DatasetError
from cxr.kinds import Flag, Whole, directory
from cxr.machine import usable_cores
from cxr.options import Options, option, options
from tfrecords.format.framing import FramedRecord, hash_file, read_records
from tfrecords.format.manifest import (
    ImageEntry,
    Manifest,
    Shard,
    Split,
    combine_statistics,
    common_channels,
    fingerprint,
    read_manifest,
    size_histogram,
)
from tfrecords.format.rules import Rules
from tfrecords.format.shard_index import MEND, TEXTS, IndexWriter, read_numbers, read_texts
from tfrecords.format.shards import (
    AUDIT_NAME,
    AUDIT_PAGE_NAME,
    FULL_RUNG,
    REJECTS_NAME,
    index_path,
    is_rung_name,
    is_shard_name,
)
from tfrecords.format.tfds_metadata import tfds_files
from tfrecords.images import codec

_WORTH_PROCESSES = 64 << 20
"""Bytes from which on starting worker processes pays."""
_STATISTICS_TOLERANCE = 1e-6
"""How far mean and standard deviation may be off, of full scale."""


class Row(NamedTuple):
    """What is kept of a readable record, to compare shards and rungs.

    Attributes:
      path, patient, labels, height, width, channels, pixel_hash: as the record says.
      statistics: (mean, variance) of its pixels where they were decoded, see `codec.pixel_statistics`.
    """

    path: str
    patient: str
    labels: tuple[int, ...]
    height: int
    width: int
    channels: int
    pixel_hash: str
    statistics: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class ShardCheck:
    """What was found in one shard and its index: sentences that name file, record and byte offset, and the records
    that can be read."""

    faults: tuple[str, ...]
    rows: tuple[Row, ...]


def check_shard(path: Path, expected: Shard, rules: Rules, deep: bool) -> ShardCheck:
    """Checks one shard and its index: sizes, BLAKE3, every CRC, every record, and with `deep` every pixel.

    Args:
      path: the shard file.
      expected: what the manifest says of it.
      rules: what the manifest says of its records.
      deep: decode each image and compare the hash of its pixels.
    """
    labels = rules.labels if rules.schema.multi_label else None
    index = IndexWriter(labels)
    check = _check_records(path, expected, rules, deep, index)
    return ShardCheck((*check.faults, *_check_index(path, expected, index, labels)), check.rows)


def _check_records(path: Path, expected: Shard, rules: Rules, deep: bool, index: IndexWriter) -> ShardCheck:
    """Checks the shard itself, and adds its readable records to `index`."""
    if not path.is_file():
        return ShardCheck((f"{path}: the shard is missing",), ())
    corrupt: list[CorruptError] = []
    faults: list[str] = []
    rows: list[Row] = []
    records = 0
    try:
        for framed in read_records(path, corrupt):
            records += 1
            fault, row = _check_record(framed, rules, deep, index)
            if fault:
                faults.append(str(CorruptError(path, framed.index, framed.offset, fault)))
            if row:
                rows.append(row)
        size, checksum = path.stat().st_size, hash_file(path)
    except (CxrError, OSError) as error:
        return ShardCheck((*map(str, corrupt), *faults, f"{path}: {error}"), tuple(rows))
    faults = [*map(str, corrupt), *faults]
    if records + len(corrupt) != expected.records:
        faults.append(f"{path}: {records + len(corrupt)} records; the manifest says {expected.records}")
    if size != expected.bytes:
        faults.append(f"{path}: {size} bytes; the manifest says {expected.bytes}")
    elif checksum != expected.blake3:
        faults.append(f"{path}: the checksum is {_shorten(checksum)}; the manifest says {_shorten(expected.blake3)}")
    return ShardCheck(tuple(faults), tuple(rows))


def _check_index(path: Path, expected: Shard, records: IndexWriter, labels: int | None) -> list[str]:
    """What is wrong with the index of a shard, given the index of the records that can be read."""
    index = index_path(path)
    try:
        numbers = read_numbers(index, expected, labels)
        texts = {name: read_texts(index, expected, name) for name in TEXTS}
        checksum, said = hash_file(index), expected.index_blake3
    except (DatasetError, OSError) as error:
        return [str(error)]
    if checksum != said:
        return [f"{index}: the checksum is {_shorten(checksum)}; the manifest says {_shorten(said)}; {MEND}"]
    stored = records.numbers
    if len(stored) != len(numbers):  # the shard has faults, and the index is whole
        return []
    columns: dict[str, tuple[Sequence, Sequence]] = {
        **{name: (numbers[name].tolist(), stored[name].tolist()) for name in stored.dtype.names or ()},
        **{name: (column, records.texts(name)) for name, column in texts.items()},
    }
    return [
        f"{index}: {name} of record {number} is {found!r}; the shard says {true!r}; {MEND}"
        for name, column in columns.items()
        for number, (found, true) in enumerate(zip(*column, strict=True))
        if found != true
    ]


def _check_record(framed: FramedRecord, rules: Rules, deep: bool, index: IndexWriter) -> tuple[str | None, Row | None]:
    """(fault or None, what is kept of the record, or None where it cannot be read)."""
    try:
        record = rules.schema.parse(framed.data)
        index.add(record, rules.schema.image_span(record, len(framed.data)), framed.place)
    except CxrError as error:
        return str(error), None
    row = Row(
        record.path,
        record.patient,
        record.labels,
        record.height,
        record.width,
        record.channels,
        record.pixel_hash,
    )
    if fault := rules.broken_by(record):
        return f"{record.path}: {fault}", row
    if deep:
        try:
            pixels = codec.decode(record)
        except CxrError as error:
            return f"{record.path}: {error}", row
        if codec.hash_pixels(pixels) != record.pixel_hash:
            return f"{record.path}: the pixels are not those that were stored (their hash differs)", row
        row = row._replace(statistics=codec.pixel_statistics(pixels))
    return None, row


def _shorten(checksum: str) -> str:
    return f"{checksum[:16]}..." if len(checksum) > 16 else checksum


def verify(root: Path, deep: bool = False, workers: int | None = None, quiet: bool = True) -> list[str]:
    """Checks a whole data set.

    Args:
      root: the data set.
      deep: decode every record and compare the hash of its pixels.
      workers: processes; None for one a core.
      quiet: show no progress bar.

    Returns:
      One sentence for each fault; empty where there is none.

    Raises:
      DatasetError: there is no manifest that can be read.
    """
    manifest = read_manifest(root)
    tasks = [
        (rung, split, number, path, shard)
        for rung in manifest.rungs
        for split in manifest.rungs[rung].shards
        for number, (path, shard) in enumerate(
            zip(manifest.shard_paths(root, rung, split), manifest.rungs[rung].shards[split], strict=True)
        )
    ]
    total = sum(shard.bytes for *_, shard in tasks)
    count = workers or (usable_cores() if total > _WORTH_PROCESSES else 1)
    checks: dict[tuple[str, str, int], ShardCheck] = {}
    with progress_bar(total, "verifying", quiet, unit="B", unit_scale=True, unit_divisor=1024) as bar:
        for (rung, split, number, _, shard), check in _run(tasks, manifest, deep, count):
            checks[rung, split, number] = check
            bar.update(shard.bytes)
    faults = [fault for key in sorted(checks) for fault in checks[key].faults]
    return faults + _check_files(root, manifest) + _check_together(root, manifest, checks)


def _run(tasks: list, manifest: Manifest, deep: bool, workers: int) -> Iterator[tuple[tuple, ShardCheck]]:
    def arguments(task: tuple) -> tuple:
        rung, _, _, path, shard = task
        return path, shard, Rules.of(manifest, rung), deep

    if workers == 1:
        yield from ((task, check_shard(*arguments(task))) for task in tasks)
        return
    # spawn: a fork would copy threads of OpenCV in mid-step
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(check_shard, *arguments(task)): task for task in tasks}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


def _check_files(root: Path, manifest: Manifest) -> list[str]:
    """Files that are missing, damaged or too many, and TFDS metadata that says something else than the manifest."""
    faults: list[str] = []
    for name in (AUDIT_NAME, AUDIT_PAGE_NAME, REJECTS_NAME):
        try:
            data = (root / name).read_bytes()
            text = data.decode()
            for part in {AUDIT_NAME: [text], REJECTS_NAME: text.splitlines()}.get(name, []):
                json.loads(part)
        except FileNotFoundError:
            faults.append(f"{root / name}: missing")
        except (OSError, ValueError) as error:
            faults.append(f"{root / name}: damaged: {error}")
        else:
            checksum, expected = blake3.blake3(data).hexdigest(), str(manifest.sidecars.get(name, "nothing"))
            if checksum != expected:
                faults.append(
                    f"{root / name}: the checksum is {_shorten(checksum)}; the manifest says {_shorten(expected)}"
                )
    faults += [
        f"{folder}: a rung that the manifest does not know"
        for folder in sorted(root.iterdir())
        if folder.is_dir() and is_rung_name(folder.name) and folder.name not in manifest.rungs
    ]
    for rung, content in manifest.rungs.items():
        folder = root / rung
        known = {path for split in content.shards for path in manifest.shard_paths(root, rung, split)}
        known |= {index_path(path) for path in known}
        for path in sorted(set(folder.iterdir()) - known if folder.is_dir() else ()):
            for kind, name in (("tfrecord", "a shard"), ("index", "an index")):
                if is_shard_name(path.name, kind):
                    faults.append(f"{path}: {name} that the manifest does not know; remove it")
        for name, text in tfds_files(manifest, rung).items():
            try:
                if (folder / name).read_bytes() != text.encode():
                    faults.append(f"{folder / name}: TFDS metadata that differs from the manifest")
            except OSError as error:
                faults.append(f"{folder / name}: TFDS metadata is missing: {error.strerror}")
    return faults


def _check_together(root: Path, manifest: Manifest, checks: dict[tuple[str, str, int], ShardCheck]) -> list[str]:
    """What no shard shows by itself: counts of splits, doubled images, sizes, fingerprint, rungs in step."""
    faults: list[str] = []
    places: dict[str, list[str]] = collections.defaultdict(list)
    by_split: dict[str, list[Row]] = {}
    whole = True
    for name, split in manifest.splits.items():
        shards = [checks[FULL_RUNG, name, number] for number in range(len(manifest.rungs[FULL_RUNG].shards[name]))]
        rows = [row for shard in shards for row in shard.rows]
        for row in rows:
            places[row.path].append(name)
        by_split[name] = rows
        if any(shard.faults for shard in shards):  # then the counts are off because of what was said already
            whole = False
        else:
            faults += _check_split(root, manifest, name, split, rows)
    faults += [
        f"{root}: {path} stands {len(splits)} times in the data set ({', '.join(splits)})"
        for path, splits in places.items()
        if len(splits) > 1
    ]
    for (rung, name, number), check in sorted(checks.items()):
        full = checks[FULL_RUNG, name, number]
        if not check.faults and not full.faults:
            fault = _compare_rungs(check.rows, full.rows, manifest.rungs[rung].size)
            faults += [f"{root / rung}: shard {number} of '{name}' {fault}"] if fault else []
    return faults + (_check_images(root, manifest, by_split) if whole and any(by_split.values()) else [])


def _check_images(root: Path, manifest: Manifest, by_split: dict[str, list[Row]]) -> list[str]:
    """What the manifest says of all full-resolution images at once: sizes, channels, fingerprint, and, where the
    rows have them, statistics of the pixels."""
    faults: list[str] = []
    rows = [row for rows in by_split.values() for row in rows]
    if manifest.sizes != size_histogram([(row.height, row.width) for row in rows]):
        faults.append(f"{root}: the sizes of the images are not those that the manifest says")
    channels = common_channels(row.channels for row in rows)
    if channels != manifest.channels:
        kinds = " and ".join(map(str, sorted({row.channels for row in rows})))
        faults.append(f"{root}: the images have {kinds} channels; the manifest says {manifest.channels}")
    found = fingerprint(
        ImageEntry(row.path, row.pixel_hash, row.labels, row.patient, split)
        for split, rows in by_split.items()
        for row in rows
    )
    expected = str(manifest.source.get("pixels", "nothing"))
    if found != expected:
        faults.append(
            f"{root}: the fingerprint of paths, pixels, labels, patients and splits is {_shorten(found)}; "
            f"the manifest says {_shorten(expected)}"
        )
    statistics = [row.statistics for row in by_split.get("train", ()) if row.statistics]
    if statistics:
        for name, value in combine_statistics(statistics).items():
            said = manifest.pixels.get(name)
            if not isinstance(said, (int, float)) or not abs(value - said) <= _STATISTICS_TOLERANCE:
                faults.append(f"{root}: the pixels of train have the {name} {value}; the manifest says {said}")
    return faults


def _check_split(root: Path, manifest: Manifest, name: str, split: Split, rows: Sequence[Row]) -> list[str]:
    faults = []
    patients = len({row.patient for row in rows})
    if (len(rows), patients) != (split.images, split.patients):
        faults.append(
            f"{root}: split '{name}' has {len(rows)} images of {patients} patients; the manifest says "
            f"{split.images} of {split.patients}"
        )
    labels = collections.Counter(label for row in rows for label in row.labels)
    counted = {label: labels[index] for index, label in enumerate(manifest.labels)}
    if counted != split.labels:
        faults.append(f"{root}: split '{name}' has labels {counted}; the manifest says {split.labels}")
    return faults


def _compare_rungs(rows: Sequence[Row], full: Sequence[Row], size: int | None) -> str | None:
    """How a shard of a rung differs from that of full resolution, or None."""
    if [row[:3] for row in rows] != [row[:3] for row in full]:
        return f"holds other images, labels or patients, or another order, than {FULL_RUNG}"
    for row, whole in zip(rows, full, strict=True):
        short = min(whole.height, whole.width)
        if min(row.height, row.width) != (short if size is None else min(short, size)):
            return f"holds {row.path} at {row.height} x {row.width} pixels; the rung's short side is {size}"
    return None


@options
class VerifyOptions(Options):
    """What `cxr verify` checks."""

    data: str = option(directory(), "a data set written by `cxr preprocess`", positional=True)
    deep: bool = option(Flag(), "decode every record and compare the hash of its pixels", default=False)
    workers: int | None = option(Whole(1), "processes", default=None, unset="one for each core")
    quiet: bool = option(Flag(), "no progress bar", default=False)


def run(given: Given) -> int:
    """Checks the data set of a command line; the exit status is 1 where there is a fault."""
    asked = given.make(VerifyOptions)
    root = Path(asked.data)
    faults = verify(root, asked.deep, asked.workers, asked.quiet)
    for fault in faults:
        print(f"FAULT {fault}")
    manifest = read_manifest(root)
    shards = [shard for rung in manifest.rungs.values() for shards in rung.shards.values() for shard in shards]
    what = (
        f"{len(shards)} shards, {sum(shard.records for shard in shards)} records, "
        f"{format_bytes(sum(shard.bytes for shard in shards))}{', every pixel' if asked.deep else ''}"
    )
    print(f"{root}: {len(faults)} faults in {what}" if faults else f"{root}: no fault in {what}")
    return EXIT_FAILED if faults else EXIT_OK


COMMAND = Command(
    "verify",
    "Checks every CRC, count, checksum and manifest entry of a data set. Names file, record and byte offset of each "
    "fault and exits 1 if there is one.",
    run, VerifyOptions,
)  # fmt: skip
main = COMMAND.main

if __name__ == "__main__":
    raise SystemExit(run_command(main))

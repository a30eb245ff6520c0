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
    more_of,
    read_manifest,
    size_histogram,
)
from tfrecords.format.rules import Rules
from tfrecords.format.schema import Record
from tfrecords.format.shard_index import MEND, IndexWriter, read_numbers, read_texts
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


class ShardCheck(NamedTuple):
    """What was found in one shard and its index.

    Attributes:
      faults: sentences that name file, record and byte offset.
      records: those that can be read, without their images.
      statistics: (mean, variance) of the pixels of those that were decoded, see `codec.pixel_statistics`.
    """

    faults: list[str]
    records: list[Record]
    statistics: list[tuple[float, float]]


def check_shard(path: Path, expected: Shard, rules: Rules, deep: bool) -> ShardCheck:
    """Checks one shard and its index: sizes, BLAKE3, every CRC, every record, and with `deep` every pixel.

    Args:
      path: the shard file.
      expected: what the manifest says of it.
      rules: what the manifest says of its records.
      deep: decode each image and compare the hash of its pixels.
    """
    labels = rules.labels if rules.schema.multi_label else None
    index, check = IndexWriter(labels, rules.schema.groups), ShardCheck([], [], [])
    _check_records(path, expected, rules, deep, index, check)
    check.faults.extend(_check_index(path, expected, index, labels))
    return check


def _check_records(
    path: Path, expected: Shard, rules: Rules, deep: bool, index: IndexWriter, check: ShardCheck
) -> None:
    """Checks the shard itself; adds its readable records to `index` and what is found to `check`."""
    if not path.is_file():
        check.faults.append(f"{path}: the shard is missing")
        return
    corrupt: list[CorruptError] = []
    records = 0
    try:
        for framed in read_records(path, corrupt):
            records += 1
            if fault := _check_record(framed, rules, deep, index, check):
                check.faults.append(str(CorruptError(path, framed.index, framed.offset, fault)))
        size, checksum = path.stat().st_size, hash_file(path)
    except (CxrError, OSError) as error:
        check.faults.append(f"{path}: {error}")
        return
    finally:
        check.faults[:0] = map(str, corrupt)
    if records + len(corrupt) != expected.records:
        check.faults.append(f"{path}: {records + len(corrupt)} records; the manifest says {expected.records}")
    if size != expected.bytes:
        check.faults.append(f"{path}: {size} bytes; the manifest says {expected.bytes}")
    elif fault := _differs(checksum, expected.blake3):
        check.faults.append(f"{path}: {fault}")


def _check_index(path: Path, expected: Shard, records: IndexWriter, labels: int | None) -> list[str]:
    """What is wrong with the index of a shard, given the index of the records that can be read."""
    index = index_path(path)
    try:
        numbers = read_numbers(index, expected, labels)
        texts = {name: read_texts(index, expected, name) for name in records.text_names}
        fault = _differs(hash_file(index), expected.index_blake3)
    except (DatasetError, OSError) as error:
        return [str(error)]
    if fault:
        return [f"{index}: {fault}; {MEND}"]
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


def _check_record(framed: FramedRecord, rules: Rules, deep: bool, index: IndexWriter, check: ShardCheck) -> str | None:
    """What is wrong with a record, or None; one that can be read is added to `index` and `check`."""
    try:
        record = rules.schema.parse(framed.data)
        index.add(record, rules.schema.image_span(record, len(framed.data)), framed.place)
    except CxrError as error:
        return str(error)
    check.records.append(dataclasses.replace(record, image=b""))
    if fault := rules.broken_by(record):
        return f"{record.path}: {fault}"
    if deep:
        try:
            pixels = codec.decode(record)
        except CxrError as error:
            return f"{record.path}: {error}"
        if codec.hash_pixels(pixels) != record.pixel_hash:
            return f"{record.path}: the pixels are not those that were stored (their hash differs)"
        check.statistics.append(codec.pixel_statistics(pixels))
    return None


def _differs(found: str, said: str, what: str = "the checksum") -> str | None:
    """A checksum that is not what the manifest says, as a sentence; None where it is."""
    if found == said:
        return None
    found, said = (f"{text[:16]}..." if len(text) > 16 else text for text in (found, said))
    return f"{what} is {found}; the manifest says {said}"


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
    checks = dict(sorted(checks.items()))  # whatever the order in which workers were done
    faults = [fault for check in checks.values() for fault in check.faults]
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
            expected = str(manifest.sidecars.get(name, "nothing"))
            if fault := _differs(blake3.blake3(data).hexdigest(), expected):
                faults.append(f"{root / name}: {fault}")
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
    by_split: dict[str, list[Record]] = collections.defaultdict(list)
    faulty: set[str] = set()
    for (rung, name, _), check in checks.items():
        if rung == FULL_RUNG:
            by_split[name] += check.records
            faulty |= {name} if check.faults else set()
    for name, split in manifest.splits.items():
        for record in by_split[name]:
            places[record.path].append(name)
        if name not in faulty:  # else the counts are off because of what was said already
            faults += _check_split(root, manifest, name, split, by_split[name])
    faults += [
        f"{root}: {path} appears {len(splits)} times in the data set ({', '.join(splits)})"
        for path, splits in places.items()
        if len(splits) > 1
    ]
    for (rung, name, number), check in checks.items():
        full = checks[FULL_RUNG, name, number]
        if not check.faults and not full.faults:
            fault = _compare_rungs(check.records, full.records, manifest.rungs[rung].size)
            faults += [f"{root / rung}: shard {number} of '{name}' {fault}"] if fault else []
    if places and not faulty:
        faults += [f"{root}: {fault}" for fault in _check_images(manifest, by_split)]
        statistics = [
            found
            for (rung, name, _), check in checks.items()
            if rung == FULL_RUNG and (name == "train" or "train" not in manifest.splits)
            for found in check.statistics
        ]
        faults += [f"{root}: {fault}" for fault in _check_statistics(manifest, statistics)]
    return faults


def _check_images(manifest: Manifest, by_split: dict[str, list[Record]]) -> Iterator[str]:
    """What the manifest says of all full-resolution images at once: sizes, channels, fingerprint."""
    records = [record for records in by_split.values() for record in records]
    if manifest.sizes != size_histogram([(record.height, record.width) for record in records]):
        yield "the sizes of the images are not those that the manifest says"
    channels = common_channels(record.channels for record in records)
    if channels != manifest.channels:
        kinds = " and ".join(map(str, sorted({record.channels for record in records})))
        yield f"the images have {kinds} channels; the manifest says {manifest.channels}"
    found = fingerprint(
        ImageEntry(record.path, record.pixel_hash, record.labels, record.patient, split, more_of(vars(record)))
        for split, records in by_split.items()
        for record in records
    )
    said = str(manifest.source.get("pixels", "nothing"))
    if fault := _differs(found, said, "the fingerprint of paths, pixels, labels, patients and splits"):
        yield fault


def _check_statistics(manifest: Manifest, statistics: list[tuple[float, float]]) -> Iterator[str]:
    """What the manifest says of the pixels of train, where they were decoded."""
    for name, value in combine_statistics(statistics).items() if statistics else ():
        said = manifest.pixels.get(name)
        if not isinstance(said, (int, float)) or not abs(value - said) <= _STATISTICS_TOLERANCE:
            yield f"the pixels of train have the {name} {value}; the manifest says {said}"


def _check_split(root: Path, manifest: Manifest, name: str, split: Split, records: Sequence[Record]) -> list[str]:
    faults = []
    patients = len({record.patient for record in records})
    if (len(records), patients) != (split.images, split.patients):
        faults.append(
            f"{root}: split '{name}' has {len(records)} images of {patients} patients; the manifest says "
            f"{split.images} of {split.patients}"
        )
    labels = collections.Counter(label for record in records for label in record.labels)
    counted = {label: labels[index] for index, label in enumerate(manifest.labels)}
    if counted != split.labels:
        faults.append(f"{root}: split '{name}' has labels {counted}; the manifest says {split.labels}")
    unknown = collections.Counter(manifest.labels[label] for record in records for label in record.unknown)
    if unknown != collections.Counter(split.unknown):
        faults.append(f"{root}: split '{name}' has unknown labels {dict(unknown)}; the manifest says {split.unknown}")
    return faults


def _compare_rungs(records: Sequence[Record], full: Sequence[Record], size: int | None) -> str | None:
    """How a shard of a rung differs from that of full resolution, or None."""
    here, there = (
        [(record.path, record.patient, record.labels, record.unknown) for record in some] for some in (records, full)
    )
    if here != there:
        return f"holds other images, labels or patients, or another order, than {FULL_RUNG}"
    for record, whole in zip(records, full, strict=True):
        short = min(whole.height, whole.width)
        if min(record.height, record.width) != (short if size is None else min(short, size)):
            return f"holds {record.path} at {record.height} x {record.width} pixels; the rung's short side is {size}"
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

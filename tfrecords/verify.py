"""`cxr verify`: holds every byte of a data set against its manifest."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import blake3

from tfrecords import codec
from tfrecords.console import EXIT_FAILED, EXIT_OK, format_bytes, progress_bar, run_command
from tfrecords.errors import CorruptError, CxrError, InputError
from tfrecords.framing import FramedRecord, read_records
from tfrecords.manifest import Manifest, Shard, read_manifest
from tfrecords.schema import RecordSchema
from tfrecords.shards import AUDIT_NAME, FULL_RUNG, REJECTS_NAME, is_shard_name

_READ_BYTES = 1 << 22
_WORTH_PROCESSES = 64 << 20
"""Bytes from which on starting worker processes pays."""


@dataclasses.dataclass(frozen=True)
class ShardCheck:
    """What was found in one shard.

    Attributes:
      faults: sentences that name file, record and byte offset.
      paths: source path of every readable record, in order.
      labels: how often each label index was seen.
      patients: patient keys seen.
    """

    faults: tuple[str, ...]
    paths: tuple[str, ...]
    labels: dict[int, int]
    patients: frozenset[str]


def check_shard(path: Path, expected: Shard, schema: RecordSchema, labels: int, deep: bool) -> ShardCheck:
    """Checks one shard: size, BLAKE3, every CRC, every record, and with `deep` every pixel.

    Args:
      path: the shard file.
      expected: what the manifest says of it.
      schema: feature table of its records.
      labels: number of labels of the data set.
      deep: decode each image and compare the hash of its pixels.
    """
    if not path.is_file():
        return ShardCheck((f"{path}: the shard is missing",), (), {}, frozenset())
    faults: list[str] = []
    corrupt: list[CorruptError] = []
    paths: list[str] = []
    patients: set[str] = set()
    counts: collections.Counter[int] = collections.Counter()
    records = 0
    try:
        for framed in read_records(path, corrupt):
            records += 1
            fault, found = _check_record(framed, schema, labels, deep)
            if fault:
                faults.append(str(CorruptError(path, framed.index, framed.offset, fault)))
            if found:
                paths.append(found[0])
                patients.add(found[1])
                counts.update(found[2])
        faults = [str(fault) for fault in corrupt] + faults
        size, checksum = path.stat().st_size, _hash_file(path)
    except (CxrError, OSError) as error:
        return ShardCheck((*faults, f"{path}: {error}"), tuple(paths), dict(counts), frozenset(patients))
    if records + len(corrupt) != expected.records:
        faults.append(f"{path}: {records + len(corrupt)} records; the manifest says {expected.records}")
    if size != expected.bytes:
        faults.append(f"{path}: {size} bytes; the manifest says {expected.bytes}")
    elif checksum != expected.blake3:
        faults.append(f"{path}: the checksum is {checksum[:16]}...; the manifest says {expected.blake3[:16]}...")
    return ShardCheck(tuple(faults), tuple(paths), dict(counts), frozenset(patients))


def _check_record(
    framed: FramedRecord, schema: RecordSchema, labels: int, deep: bool
) -> tuple[str | None, tuple[str, str, tuple[int, ...]] | None]:
    """(fault or None, (path, patient, labels) or None)."""
    try:
        record = schema.parse(framed.data)
    except CxrError as error:
        return str(error), None
    indices = record.label if isinstance(record.label, tuple) else (record.label,)
    found = (record.path, record.patient, indices)
    if any(not 0 <= index < labels for index in indices):
        return f"label {record.label} of {record.path}; expected 0 to {labels - 1}", found
    if deep:
        try:
            pixel_hash = codec.hash_pixels(codec.decode(record))
        except CxrError as error:
            return f"{record.path}: {error}", found
        if pixel_hash != record.pixel_hash:
            return f"{record.path}: the pixels are not those that were stored (their hash differs)", found
    return None, found


def _hash_file(path: Path) -> str:
    hasher = blake3.blake3()
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


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
    count = workers or len(os.sched_getaffinity(0))
    checks: dict[tuple[str, str, int], ShardCheck] = {}
    with progress_bar(total, "verifying", quiet, unit="B", unit_scale=True, unit_divisor=1024) as bar:
        for (rung, split, number, _, shard), check in _run(
            tasks, manifest, deep, count if total > _WORTH_PROCESSES else 1
        ):
            checks[rung, split, number] = check
            bar.update(shard.bytes)
    faults = [fault for key in sorted(checks) for fault in checks[key].faults]
    return faults + _check_files(root, manifest) + _check_together(root, manifest, checks)


def _run(tasks: list, manifest: Manifest, deep: bool, workers: int) -> Iterator[tuple[tuple, ShardCheck]]:
    def arguments(task: tuple) -> tuple:
        rung, _, _, path, shard = task
        return path, shard, manifest.schema(rung), len(manifest.labels), deep

    if workers == 1:
        yield from ((task, check_shard(*arguments(task))) for task in tasks)
        return
    # spawn: a fork would copy threads of OpenCV in mid-step
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(check_shard, *arguments(task)): task for task in tasks}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


def _check_files(root: Path, manifest: Manifest) -> list[str]:
    """Files that are missing or too many, and TFDS metadata that says something else than the manifest."""
    faults = [f"{root / name}: missing" for name in (AUDIT_NAME, REJECTS_NAME) if not (root / name).is_file()]
    for rung, content in manifest.rungs.items():
        folder = root / rung
        known = {path.name for split in content.shards for path in manifest.shard_paths(root, rung, split)}
        found = {path.name for path in folder.iterdir() if is_shard_name(path.name)} if folder.is_dir() else set()
        faults += [f"{folder / name}: a shard that the manifest does not know" for name in sorted(found - known)]
        try:
            info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
            json.loads((folder / "features.json").read_text(encoding="utf-8"))
            lengths = {split["name"]: tuple(map(int, split["shardLengths"])) for split in info["splits"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            faults.append(f"{folder}: TFDS metadata is missing or damaged: {error}")
            continue
        expected = {split: tuple(shard.records for shard in shards) for split, shards in content.shards.items()}
        if lengths != expected:
            faults.append(f"{folder / 'dataset_info.json'}: shard lengths differ from the manifest's")
    return faults


def _check_together(root: Path, manifest: Manifest, checks: dict[tuple[str, str, int], ShardCheck]) -> list[str]:
    """What no shard shows by itself: counts of a split, doubled images, rungs in step."""
    faults: list[str] = []
    for name, split in manifest.splits.items():
        shards = [checks[FULL_RUNG, name, number] for number in range(len(manifest.rungs[FULL_RUNG].shards[name]))]
        if any(shard.faults for shard in shards):
            continue  # the counts are off because of what was said already
        labels: collections.Counter[int] = collections.Counter()
        for shard in shards:
            labels.update(shard.labels)
        paths = [path for shard in shards for path in shard.paths]
        found = (len(paths), len(frozenset().union(*(shard.patients for shard in shards))))
        if found != (split.images, split.patients):
            faults.append(
                f"{root}: split '{name}' has {found[0]} images of {found[1]} patients; the manifest says "
                f"{split.images} of {split.patients}"
            )
        counted = {label: labels[index] for index, label in enumerate(manifest.labels)}
        if counted != split.labels:
            faults.append(f"{root}: split '{name}' has labels {counted}; the manifest says {split.labels}")
        faults += [
            f"{root}: {path} stands {count} times in split '{name}'"
            for path, count in collections.Counter(paths).items()
            if count > 1
        ]
    for (rung, name, number), check in sorted(checks.items()):
        full = checks[FULL_RUNG, name, number]
        if not check.faults and not full.faults and check.paths != full.paths:
            faults.append(
                f"{root / rung}: shard {number} of '{name}' holds other images, or another order, than {FULL_RUNG}"
            )
    return faults


def build_parser() -> argparse.ArgumentParser:
    """The command line of `cxr verify`."""
    parser = argparse.ArgumentParser(
        prog="cxr verify",
        description="Checks every CRC, count, checksum and manifest entry of a data set. Names file, record and byte "
        "offset of each fault and exits 1 if there is one.",
    )
    parser.add_argument("data", metavar="DIR", help="a data set written by `cxr preprocess`")
    parser.add_argument("--deep", action="store_true", help="decode every record and compare the hash of its pixels")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one a core)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cxr verify`; returns the exit status."""
    arguments = build_parser().parse_args(argv)
    if arguments.workers is not None and arguments.workers < 1:
        raise InputError(f"--workers: expected at least 1, received {arguments.workers}")
    root = Path(arguments.data)
    faults = verify(root, arguments.deep, arguments.workers, arguments.quiet)
    for fault in faults:
        print(f"FAULT {fault}")
    manifest = read_manifest(root)
    shards = [shard for rung in manifest.rungs.values() for shards in rung.shards.values() for shard in shards]
    what = (
        f"{len(shards)} shards, {sum(shard.records for shard in shards)} records, "
        f"{format_bytes(sum(shard.bytes for shard in shards))}{', every pixel' if arguments.deep else ''}"
    )
    print(f"{root}: {len(faults)} faults in {what}" if faults else f"{root}: no fault in {what}")
    return EXIT_FAILED if faults else EXIT_OK


if __name__ == "__main__":
    raise SystemExit(run_command(main))

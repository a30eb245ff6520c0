"""The end of a job: audit, rejects, TFDS metadata and, last, the manifest, all still in the build directory."""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blake3

from beam_jobs.audit import AuditImage, audit
from beam_jobs.index import IndexRow
from beam_jobs.planning import Plan, PlannedImage
from beam_jobs.shard_writer import ShardResult, ShardSettings, WrittenImage
from tfrecords.manifest import Manifest, Rung, Split, size_histogram, write_atomically
from tfrecords.shards import AUDIT_NAME, MANIFEST_NAME, REJECTS_NAME
from tfrecords.tfds_metadata import write_tfds_metadata


def finish(
    build: Path,
    job: dict[str, Any],
    kind: str,
    settings: ShardSettings,
    plan: Plan,
    rows: Sequence[IndexRow],
    results: Sequence[ShardResult],
    rejects: Sequence[tuple[str, str]],
    dropped: Sequence[tuple[str, str]],
) -> None:
    """Writes all that is not a shard.

    Args:
      build: the build directory.
      job: what the job is: `options`, `listing` and `versions`.
      kind: of source.
      settings: of the shards.
      plan: what was to be written.
      rows: of the images in the plan.
      results: of the plan's shards, in its order.
      rejects: (path, reason) of images that could not be used.
      dropped: (path, reason) of duplicates that were left out.
    """
    planned = {image.path: image for image in plan.images}
    written = [image for result in results for image in result.images]
    manifest = _make_manifest(job, kind, settings, plan, results)
    for rung in manifest.rungs:
        write_tfds_metadata(build / rung, manifest, rung)
    report = _make_audit(plan, planned, rows, written)
    write_atomically(build / AUDIT_NAME, json.dumps(report, indent=2) + "\n")
    lines = [{"path": path, "kind": "unreadable", "reason": reason} for path, reason in sorted(rejects)]
    lines += [{"path": path, "kind": "duplicate", "reason": reason} for path, reason in sorted(dropped)]
    write_atomically(build / REJECTS_NAME, "".join(json.dumps(line) + "\n" for line in lines))
    write_atomically(build / MANIFEST_NAME, manifest.to_json())


def _make_audit(
    plan: Plan, planned: dict[str, PlannedImage], rows: Sequence[IndexRow], written: Sequence[WrittenImage]
) -> dict[str, Any]:
    index = {row.image.path: row for row in rows}
    images = []
    for image in written:
        plan_of, row = planned[image.path], index[image.path]
        if row.header is not None:
            images.append(
                AuditImage(
                    image.path,
                    plan_of.split,
                    plan_of.patient,
                    plan_of.labels,
                    image.pixel_hash,
                    row.header,
                    row.image.bytes,
                )
            )
    report = audit(images, plan.labels, plan.notes)
    report["own_patients"] = plan.own_patients
    if plan.own_patients:
        report["warnings"].append(
            f"PATIENTS: nothing names the patient of {plan.own_patients} images, so each counts as a patient of its "
            "own and one patient may stand in several splits; see --patient-pattern, or a table with a `patient` column"
        )
    return report


def _make_manifest(
    job: dict[str, Any], kind: str, settings: ShardSettings, plan: Plan, results: Sequence[ShardResult]
) -> Manifest:
    planned = {image.path: image for image in plan.images}
    written = [image for result in results for image in result.images]
    by_split: dict[str, list[PlannedImage]] = collections.defaultdict(list)
    for image in written:
        by_split[planned[image.path].split].append(planned[image.path])
    names = list(dict.fromkeys(shard.split for shard in plan.shards))
    splits = {}
    for name in names:
        counts = collections.Counter(index for image in by_split[name] for index in image.labels)
        splits[name] = Split(
            len(by_split[name]),
            len({image.patient for image in by_split[name]}),
            {label: counts[index] for index, label in enumerate(plan.labels)},
        )
    pairs = list(zip(plan.shards, results, strict=True))
    rungs = {
        rung: Rung(
            size,
            encoding,
            {name: tuple(result.files[rung] for shard, result in pairs if shard.split == name) for name in names},
        )
        for rung, (size, encoding) in settings.rungs.items()
    }
    channels = {image.channels for image in written}
    return Manifest(
        name=settings.name,
        labels=plan.labels,
        multi_label=plan.multi_label,
        bit_depth=plan.bit_depth,
        channels=channels.pop() if len(channels) == 1 else 0,
        splits=splits,
        rungs=rungs,
        sizes=size_histogram([(image.height, image.width) for image in written]),
        pixels=_pixel_statistics([image for image in written if planned[image.path].split == "train"]),
        source={"kind": kind, "listing": job["listing"], "pixels": _fingerprint(written, planned)},
        options=job["options"],
        versions=job["versions"],
    )


def _pixel_statistics(images: Sequence[WrittenImage]) -> dict[str, float]:
    mean = math.fsum(image.mean for image in images) / len(images)
    square = math.fsum(image.variance + image.mean**2 for image in images) / len(images)
    return {"mean": round(mean, 9), "std": round(math.sqrt(max(0.0, square - mean**2)), 9)}


def _fingerprint(written: Sequence[WrittenImage], planned: dict[str, PlannedImage]) -> str:
    """BLAKE3 over what the data set says: path, pixels, labels, patient and split of every image."""
    hasher = blake3.blake3()
    for image in sorted(written, key=lambda image: image.path):
        plan = planned[image.path]
        hasher.update(json.dumps([image.path, image.pixel_hash, plan.labels, plan.patient, plan.split]).encode())
    return hasher.hexdigest()

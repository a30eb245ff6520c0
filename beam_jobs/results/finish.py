"""The end of a job: audit, rejects, TFDS metadata and, last, the manifest, all still in the build directory."""

from __future__ import annotations

import collections
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blake3

from beam_jobs.execution.shard_writer import ShardResult, ShardSettings, WrittenImage
from beam_jobs.planning.headers import IndexRow
from beam_jobs.planning.plan import Plan, PlannedImage
from beam_jobs.results.audit import AuditImage, audit
from beam_jobs.results.audit_page import audit_page
from cxr.files import write_atomically
from tfrecords.format.manifest import (
    ImageEntry,
    Manifest,
    Rung,
    Split,
    combine_statistics,
    common_channels,
    fingerprint,
    size_histogram,
)
from tfrecords.format.shards import AUDIT_NAME, AUDIT_PAGE_NAME, MANIFEST_NAME, REJECTS_NAME
from tfrecords.format.tfds_metadata import write_tfds_metadata


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
    report = _make_audit(plan, planned, rows, written)
    lines = [{"path": path, "kind": "unreadable", "reason": reason} for path, reason in sorted(rejects)]
    lines += [{"path": path, "kind": "duplicate", "reason": reason} for path, reason in sorted(dropped)]
    sidecars = {
        AUDIT_NAME: _write_sidecar(build / AUDIT_NAME, json.dumps(report, indent=2) + "\n"),
        AUDIT_PAGE_NAME: _write_sidecar(build / AUDIT_PAGE_NAME, audit_page(settings.name, report)),
        REJECTS_NAME: _write_sidecar(build / REJECTS_NAME, "".join(json.dumps(line) + "\n" for line in lines)),
    }
    manifest = _make_manifest(job, kind, settings, plan, planned, results, written, sidecars)
    for rung in manifest.rungs:
        write_tfds_metadata(build / rung, manifest, rung)
    write_atomically(build / MANIFEST_NAME, manifest.to_json())


def _write_sidecar(path: Path, content: str) -> str:
    """Writes a report and returns the BLAKE3 of its bytes."""
    write_atomically(path, content)
    return blake3.blake3(content.encode()).hexdigest()


def _make_audit(
    plan: Plan, planned: dict[str, PlannedImage], rows: Sequence[IndexRow], written: Sequence[WrittenImage]
) -> dict[str, Any]:
    index = {row.image.path: row for row in rows}
    images = []
    for image in written:
        plan_of, row = planned[image.path], index[image.path]
        if row.header is not None:
            of_plan = image.path, plan_of.split, plan_of.patient, plan_of.labels
            images.append(AuditImage(*of_plan, image.pixel_hash, row.header, row.image.bytes))
    report = audit(images, plan.labels, plan.notes)
    report["own_patients"] = plan.own_patients
    if plan.own_patients:
        report["warnings"].append(
            f"PATIENTS: nothing names the patient of {plan.own_patients} images, so each counts as a patient of its "
            "own and one patient may stand in several splits; see --patient-pattern, or a table with a `patient` column"
        )
    return report


def _make_manifest(
    job: dict[str, Any],
    kind: str,
    settings: ShardSettings,
    plan: Plan,
    planned: dict[str, PlannedImage],
    results: Sequence[ShardResult],
    written: Sequence[WrittenImage],
    sidecars: dict[str, str],
) -> Manifest:
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
    entries = []
    for image in written:
        plan_of = planned[image.path]
        entries.append(ImageEntry(image.path, image.pixel_hash, plan_of.labels, plan_of.patient, plan_of.split))
    train = [(image.mean, image.variance) for image in written if planned[image.path].split == "train"]
    return Manifest(
        name=settings.name,
        labels=plan.labels,
        multi_label=plan.multi_label,
        bit_depth=plan.bit_depth,
        channels=common_channels(image.channels for image in written),
        splits=splits,
        rungs=rungs,
        sizes=size_histogram([(image.height, image.width) for image in written]),
        pixels=combine_statistics(train),
        source={"kind": kind, "listing": job["listing"], "pixels": fingerprint(entries)},
        options=job["options"],
        versions=job["versions"],
        sidecars=sidecars,
    )

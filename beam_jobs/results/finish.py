"""The end of a job: audit, rejects, TFDS metadata and, last, the manifest, all still in the build directory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import blake3

from beam_jobs.execution.shard_writer import ShardResult, ShardSettings, WrittenImage, rings_path
from beam_jobs.planning.headers import IndexRow
from beam_jobs.planning.plan import Plan, PlannedImage, count_splits
from beam_jobs.results.audit import AuditImage, audit
from beam_jobs.results.audit_page import audit_page
from beam_jobs.results.audit_pictures import draw_pictures
from beam_jobs.results.outer_ring import label_from_outer_ring, out_of_fold_scores, ring_sample
from cxr.files import write_atomically
from tfrecords.format.choices import small_split
from tfrecords.format.manifest import (
    ImageEntry,
    Manifest,
    Rung,
    Split,
    combine_statistics,
    common_channels,
    fingerprint,
    more_of,
    size_histogram,
)
from tfrecords.format.shards import AUDIT_NAME, AUDIT_PAGE_NAME, MANIFEST_NAME, REJECTS_NAME
from tfrecords.format.tfds_metadata import write_tfds_metadata

Written = tuple[WrittenImage, PlannedImage]


def finish(
    build: Path, job: dict[str, Any], kind: str, settings: ShardSettings, plan: Plan, rows: Sequence[IndexRow],
    results: Sequence[ShardResult], rejects: Sequence[tuple[str, str]], dropped: Sequence[tuple[str, str]],
) -> None:  # fmt: skip
    """Writes all that is not a shard into the build directory.

    Args:
      build: the build directory.
      job, kind: `options`, `listing` and `versions` of the job, and the kind of source.
      settings, plan, rows: of the shards, what was to be written, and the images in it.
      results: of the plan's shards, in its order.
      rejects, dropped: (path, reason) of images that could not be used, and of duplicates that were left out.
    """
    planned = {image.path: image for image in plan.images}
    written = [(image, planned[image.path]) for result in results for image in result.images]
    finished = list(zip(plan.shards, results, strict=True))
    images = _audit_images(rows, written)
    files = [(rings_path(settings, shard), [image.path for image in result.images]) for shard, result in finished]
    sample = ring_sample(images, plan.labels, files)
    scores = out_of_fold_scores(sample.rings, sample.sides, sample.patients)
    splits = count_splits(plan, (of for _, of in written))
    report = _make_audit(plan, images, splits, label_from_outer_ring(sample, scores))
    report["repaired"] = {image.path: image.repaired for image, _ in written if image.repaired}
    if report["repaired"]:
        first, how = next(iter(report["repaired"].items()))
        report["notes"].append(f"{len(report['repaired'])} files were mended, {first} the first: {how}")
    pictures = draw_pictures(settings, finished, images, plan.labels, report, sample)
    lines = [{"path": path, "kind": "unreadable", "reason": reason} for path, reason in sorted(rejects)]
    lines += [{"path": path, "kind": "duplicate", "reason": reason} for path, reason in sorted(dropped)]
    reports = {
        AUDIT_NAME: json.dumps(report, indent=2) + "\n",
        AUDIT_PAGE_NAME: audit_page(settings.name, report, lines, pictures),
        REJECTS_NAME: "".join(json.dumps(line) + "\n" for line in lines),
    }
    for name, content in reports.items():
        write_atomically(build / name, content)
    sidecars = {name: blake3.blake3(content.encode()).hexdigest() for name, content in reports.items()}
    manifest = _make_manifest(job, kind, settings, plan, results, written, splits, sidecars)
    for rung in manifest.rungs:
        write_tfds_metadata(build / rung, manifest, rung)
    write_atomically(build / MANIFEST_NAME, manifest.to_json())


def _audit_images(rows: Sequence[IndexRow], written: Sequence[Written]) -> list[AuditImage]:
    index = {row.image.path: row for row in rows}
    images = []
    for image, of in written:
        row = index[image.path]
        if row.header is not None:
            about = image.pixel_hash, row.header, row.image.bytes
            images.append(AuditImage(of.path, of.split, of.patient, of.labels, *about, of.unknown))
    return images


def _make_audit(
    plan: Plan, images: Sequence[AuditImage], splits: Mapping[str, Split], outer_ring: dict[str, Any]
) -> dict[str, Any]:
    report = audit(images, plan.labels, plan.notes, outer_ring)
    report["own_patients"] = plan.own_patients
    small = (small_split(name, split) for name, split in splits.items() if name != "train")
    report["warnings"] += [f"SMALL: {warning}" for warning in small if warning]
    if plan.own_patients:
        report["warnings"].append(
            f"PATIENTS: nothing names the patient of {plan.own_patients} images, so each counts as a patient of its "
            "own and one patient may stand in several splits; see --patient-pattern, or a table with a `patient` column"
        )
    return report


def _make_manifest(
    job: dict[str, Any], kind: str, settings: ShardSettings, plan: Plan, results: Sequence[ShardResult],
    written: Sequence[Written], splits: dict[str, Split], sidecars: dict[str, str],
) -> Manifest:  # fmt: skip
    rungs, pairs = {}, list(zip(plan.shards, results, strict=True))
    for rung, (size, encoding) in settings.rungs.items():
        shards = {name: tuple(done.files[rung] for shard, done in pairs if shard.split == name) for name in splits}
        rungs[rung] = Rung(size, encoding, shards)
    entries = [
        ImageEntry(of.path, image.pixel_hash, of.labels, of.patient, of.split, _more(of, plan.groups))
        for image, of in written
    ]
    shown = [(image.mean, image.variance) for image, of in written if of.split == "train" or "train" not in splits]
    return Manifest(
        name=settings.name,
        labels=plan.labels,
        multi_label=plan.multi_label,
        bit_depth=plan.bit_depth,
        channels=common_channels(image.channels for image, _ in written),
        splits=splits,
        rungs=rungs,
        sizes=size_histogram([(image.height, image.width) for image, _ in written]),
        pixels=combine_statistics(shown),
        source={"kind": kind, "listing": job["listing"], "pixels": fingerprint(entries)},
        options=job["options"],
        versions=job["versions"],
        sidecars=sidecars,
        unknown_labels=plan.unknown_labels,
        groups=plan.groups,
        scale=settings.scale,
    )


def _more(image: PlannedImage, groups: Sequence[str]) -> tuple[tuple[str, Any], ...]:
    """`ImageEntry.more` of a planned image."""
    return more_of({"unknown": image.unknown, **dict(zip(groups, image.groups, strict=True))})

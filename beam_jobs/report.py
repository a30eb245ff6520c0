"""What a finished job prints: the closing table and the audit."""

from __future__ import annotations

from tabulate import tabulate

from beam_jobs.job import JobSummary
from tfrecords.console import format_bytes, format_seconds
from tfrecords.manifest import Manifest

_SHOWN = 5


def closing_report(summary: JobSummary, output: str) -> str:
    """Everything that a person should read after a job, as text."""
    manifest = summary.manifest
    images = sum(split.images for split in manifest.splits.values())
    parts = [split_table(manifest), rung_table(manifest), _sizes(manifest)]
    rejects = len(summary.rejects)
    parts.append(
        f"{images} images; {rejects} left out (rejects.jsonl)" if rejects else f"{images} images; none left out"
    )
    if rejects:
        parts[-1] += "".join(f"\n  {path}: {reason}" for path, reason in summary.rejects[:_SHOWN])
        parts[-1] += f"\n  and {rejects - _SHOWN} more" if rejects > _SHOWN else ""
    parts.append(audit_text(summary.audit))
    if summary.already_complete:
        parts.append(f"{output} was complete already; nothing was done")
    else:
        kept = f", {summary.kept_shards} shards kept from before" if summary.kept_shards else ""
        megapixels = manifest.sizes["pixels"] / 1e6
        parts.append(
            f"done in {format_seconds(summary.seconds)}: {images / summary.seconds:.0f} images/s, "
            f"{megapixels / summary.seconds:.0f} megapixels/s{kept}\n"
            f"look at it:  cxr inspect {output}\ncheck it:    cxr verify {output}"
        )
    return "\n\n".join(parts)


def split_table(manifest: Manifest) -> str:
    """Images, patients and labels of each split."""
    rows = [
        [
            name,
            split.images,
            split.patients,
            *(f"{count} ({count / max(1, split.images):.1%})" for count in split.labels.values()),
        ]
        for name, split in manifest.splits.items()
    ]
    return tabulate(rows, ["split", "images", "patients", *manifest.labels], colalign=_right(3 + len(manifest.labels)))


def rung_table(manifest: Manifest) -> str:
    """Resolution, encoding, shards and bytes of each rung."""
    rows = []
    for name, rung in manifest.rungs.items():
        shards = [shard for shards in rung.shards.values() for shard in shards]
        size = sum(shard.bytes for shard in shards)
        records = sum(shard.records for shard in shards)
        side = f"short side {rung.size}" if rung.size else "native"
        rows.append([name, side, rung.encoding, len(shards), format_bytes(size), format_bytes(size / max(1, records))])
    return tabulate(rows, ["rung", "size", "encoding", "shards", "bytes", "an image"], colalign=_right(6))


def _sizes(manifest: Manifest) -> str:
    height, width = manifest.sizes["height"], manifest.sizes["width"]
    images = sum(split.images for split in manifest.splits.values())
    kind = {1: "grey", 3: "colour", 0: "grey and colour"}[manifest.channels]
    return (
        f"sizes: {width['min']}..{width['max']} x {height['min']}..{height['max']}, mean {width['mean']:.0f} x "
        f"{height['mean']:.0f}, {manifest.sizes['pixels'] / images / 1e6:.2f} megapixels an image; "
        f"{manifest.bit_depth} bit, {kind}; train pixels {manifest.pixels['mean']:.3f} +- {manifest.pixels['std']:.3f}"
    )


def audit_text(audit: dict) -> str:
    """The audit as a table, with its notes and warnings."""
    duplicates = audit["duplicates"]
    rows = [
        ["duplicate images (equal pixels)", f"{duplicates['extra_copies']} in {len(duplicates['groups'])} groups"],
        ["  across splits / labels", f"{duplicates['across_splits']} / {duplicates['across_labels']}"],
        ["patients in several splits", str(len(audit["patients_across_splits"]))],
    ]
    for name, result in audit["label_from_encoding"].items():
        rows.append([f"'{name}' told from the encoding alone", _auc(result)])
    for name, result in audit["split_from_encoding"].items():
        rows.append([f"'{name}' told from 'train' by the encoding", _auc(result)])
    text = tabulate(rows, ["audit", "found"])
    for group in duplicates["groups"][:_SHOWN]:
        text += f"\n  same pixels: {' = '.join(group['paths'])}"
    if len(duplicates["groups"]) > _SHOWN:
        text += f"\n  and {len(duplicates['groups']) - _SHOWN} more groups (audit.json)"
    text += "".join(f"\nnote: {note}" for note in audit["notes"])
    return text + "".join(f"\nWARNING {warning}" for warning in audit["warnings"])


def _auc(result: dict) -> str:
    return f"AUC {result['auc']:.3f}" if "auc" in result else f"not measured: {result['skipped']}"


def _right(columns: int) -> list[str]:
    return ["left", *["right"] * (columns - 1)]

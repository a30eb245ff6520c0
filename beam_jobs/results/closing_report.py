"""What a finished job did, and what it prints: the closing table and the audit."""

from __future__ import annotations

import dataclasses
from typing import Any

from tabulate import tabulate

from beam_jobs.execution.limits import first_few
from cxr.console import format_seconds
from tfrecords.format.manifest import Manifest
from tfrecords.summary import manifest_tables


@dataclasses.dataclass(frozen=True)
class JobSummary:
    """What a job did.

    Attributes:
      manifest: of the data set.
      audit: what was found, see `beam_jobs.results.audit`.
      rejects: (path, reason) of images that are not in the data set.
      seconds: that the job took.
      written_images: images that this run wrote.
      kept_shards: shards that an earlier, interrupted run had finished.
      already_complete: the output held this very data set; nothing was done.
      logged: there are TensorBoard logs of this run.
    """

    manifest: Manifest
    audit: dict[str, Any]
    rejects: tuple[tuple[str, str], ...]
    seconds: float = 0.0
    written_images: int = 0
    kept_shards: int = 0
    already_complete: bool = False
    logged: bool = False


def closing_report(summary: JobSummary, output: str) -> str:
    """Everything that a person should read after a job, as text."""
    manifest = summary.manifest
    images = sum(split.images for split in manifest.splits.values())
    parts = [manifest_tables(manifest)]
    rejects = [f"{path}: {reason}" for path, reason in summary.rejects]
    left_out = f"{len(rejects)} left out (rejects.jsonl)" if rejects else "none rejected"
    parts.append(f"{images} images; {left_out}{first_few(rejects)}")
    parts.append(audit_text(summary.audit))
    if summary.already_complete:
        parts.append(f"{output} was already complete; nothing to do")
    else:
        kept = f", {summary.kept_shards} shards kept from an earlier run" if summary.kept_shards else ""
        speed = ""
        if summary.written_images:  # a run may find every shard finished
            rate = summary.written_images / summary.seconds
            megapixels = rate * manifest.sizes["pixels"] / 1e6 / images
            speed = f": {rate:.0f} images/s, {megapixels:.0f} megapixels/s"
        no_logs = "note: no logs for `cxr board`: the package tensorboard is missing, or they could not be written"
        parts.append(
            f"done in {format_seconds(summary.seconds)}{speed}{kept}\n"
            f"inspect it:  cxr inspect {output}\ncheck it:    cxr verify {output}\n"
            f"audit:       {output}/audit.html\n" + (f"TensorBoard: cxr board {output}" if summary.logged else no_logs)
        )
    return "\n\n".join(parts)


def audit_text(audit: dict) -> str:
    """The audit as a table, with its notes and warnings."""
    duplicates = audit["duplicates"]
    rows = [
        ["duplicate images (equal pixels)", f"{duplicates['extra_copies']} in {len(duplicates['groups'])} groups"],
        ["  across splits / labels", f"{duplicates['across_splits']} / {duplicates['across_labels']}"],
        ["patients in several splits", str(len(audit["patients_across_splits"]))],
    ]
    for name, result in audit["label_from_encoding"].items():
        rows.append([f"'{name}' predictable from the encoding alone", _auc(result)])
    for name, result in audit.get("label_from_outer_ring", {}).items():  # a data set of an earlier version has none
        rows.append([f"'{name}' predictable from the outer ring of the images alone", _auc(result)])
    for name, result in audit["split_from_encoding"].items():
        rows.append([f"'{name}' distinguishable from 'train' by the encoding", _auc(result)])
    groups = [f"same pixels: {' = '.join(group['paths'])}" for group in duplicates["groups"]]
    text = tabulate(rows, ["audit", "found"]) + first_few(groups, "more groups (audit.json)")
    text += "".join(f"\nnote: {note}" for note in audit["notes"])
    return text + "".join(f"\nWARNING {warning}" for warning in audit["warnings"])


def _auc(result: dict) -> str:
    return f"AUC {result['auc']:.3f}" if "auc" in result else f"not measured: {result['skipped']}"

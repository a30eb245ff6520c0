"""The preprocessing job from end to end: list, read headers, plan, write shards, audit, publish."""

from __future__ import annotations

import collections
import importlib.metadata
import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beam_jobs.execution import pipeline as beam_pipeline
from beam_jobs.execution.shard_writer import ShardResult, ShardSettings, read_finished, shard_paths
from beam_jobs.execution.workspace import Workspace
from beam_jobs.planning.headers import IndexRow, fingerprint_listing, read_rows, write_tasks
from beam_jobs.planning.headers import result_path as index_result_path
from beam_jobs.planning.plan import Plan, PlannedImage, ShardPlan, common_bit_depth, make_plan, split_order
from beam_jobs.preprocess_config import TFDS_PREFIX, PreprocessConfig
from beam_jobs.results.finish import finish
from beam_jobs.results.job_log import JobLog
from beam_jobs.results.job_summary import JobSummary
from beam_jobs.sources.source import FolderSource, Source, SourceImage, open_source
from beam_jobs.sources.tfds_source import materialize_tfds
from cxr.console import format_bytes
from cxr.errors import InputError, OutputError
from cxr.files import write_atomically
from cxr.machine import usable_cores
from tfrecords.format.manifest import read_manifest
from tfrecords.format.schema import SCHEMA_VERSION
from tfrecords.format.shards import AUDIT_NAME, REJECTS_NAME, index_path

_DISTRIBUTIONS = (
    "cxr-stream", "apache-beam", "numpy", "opencv-python-headless", "simplejpeg", "pillow", "blake3",
    "pydicom", "pylibjpeg", "python-gdcm", "scikit-learn",
)  # fmt: skip
_WORST = 5


def preprocess(config: PreprocessConfig, beam_arguments: Sequence[str] = (), quiet: bool = False) -> JobSummary:
    """Makes a data set.

    Args:
      config: what to make.
      beam_arguments: options for Beam, such as `--runner=FlinkRunner`; all local cores without.
      quiet: show no progress bars.

    Raises:
      InputError: the source or an option cannot be used, or too many images cannot be read.
      OutputError: the output directory cannot be used.
    """
    try:
        return _preprocess(config, beam_arguments, quiet)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise OutputError(
            f"{error.strerror or error}{where}; mend that and run the same command again: what is finished is kept"
        ) from error


def _preprocess(config: PreprocessConfig, beam_arguments: Sequence[str], quiet: bool) -> JobSummary:
    began = time.monotonic()
    workspace = Workspace(config.output)
    if not config.input.startswith(TFDS_PREFIX):
        # before anything is made: a missing input must not leave an empty output behind
        source: Source = open_source(config.input, config.images_root)
        _refuse_output_in_input(source, workspace)
    with workspace.locked():
        if config.input.startswith(TFDS_PREFIX):
            archive = workspace.archive(f"{config.input} {config.tfds_data_dir}")
            source = materialize_tfds(config.input.removeprefix(TFDS_PREFIX), archive, config.tfds_data_dir, quiet)
        listing = _list(source, config)
        fingerprint = fingerprint_listing(listing)
        job = {"options": config.result_options(), "versions": _versions()}
        if not config.overwrite and _is_finished(workspace, job, fingerprint):
            workspace.close()
            return _summarise(workspace, already_complete=True)
        workspace.begin(job, config.overwrite)
        described = {**job, "listing": fingerprint}
        built = workspace.built()
        written = kept = 0
        with JobLog(workspace) as log:
            if built is None or built.source["listing"] != fingerprint:
                written, kept = _build(config, workspace, log, source, listing, described, beam_arguments, quiet)
            workspace.publish()
            took = time.monotonic() - began
            summary = _summarise(workspace, seconds=took, written_images=written, kept_shards=kept, logged=log.active)
            log.describe(summary)
        return summary


def _summarise(workspace: Workspace, **facts: Any) -> JobSummary:
    report = json.loads((workspace.output / AUDIT_NAME).read_text(encoding="utf-8"))
    with open(workspace.output / REJECTS_NAME, encoding="utf-8") as file:
        rejects = tuple((row["path"], row["reason"]) for row in map(json.loads, file))
    return JobSummary(read_manifest(workspace.output), report, rejects, **facts)


def _refuse_output_in_input(source: Source, workspace: Workspace) -> None:
    root, output = Path(source.root).resolve(), workspace.output.resolve()
    if isinstance(source, FolderSource) and (output == root or root in output.parents):
        raise InputError(
            f"the output {output} lies inside the input {root}, and would be taken for images; expected one elsewhere"
        )


def _list(source: Source, config: PreprocessConfig) -> list[SourceImage]:
    listing = list(source.list())
    if not listing:
        raise InputError(f"the input {config.input} has no images")
    return listing


def _is_finished(workspace: Workspace, job: dict[str, Any], fingerprint: str) -> bool:
    """Whether the output holds the finished data set that `job` would make of the source."""
    manifest = None if workspace.built() else workspace.finished()
    return manifest is not None and manifest.options == job["options"] and manifest.source["listing"] == fingerprint


def _build(
    config: PreprocessConfig,
    workspace: Workspace,
    log: JobLog,
    source: Source,
    listing: list[SourceImage],
    described: dict[str, Any],
    beam_arguments: Sequence[str],
    quiet: bool,
) -> tuple[int, int]:
    """Writes the data set into the build directory: (images written, shards that were finished before)."""
    options = beam_pipeline.make_options(beam_arguments, usable_cores())
    driver = os.getpid() if beam_pipeline.is_local(options) else None
    context = beam_pipeline.WorkerContext(source, str(workspace.progress), driver)
    with log.stage("headers_read"):
        rows = _read_headers(config, workspace, context, listing, options, quiet)
    rejects = [(row.image.path, row.reject) for row in rows if row.reject]
    _check_rejects(rejects, len(listing), config, "so far only headers were read; ")  # before hours of writing
    usable = [row for row in rows if not row.reject]
    dropped: list[tuple[str, str]] = []
    if config.duplicates != "keep":
        with log.stage("images_compared", len(rejects)):
            usable, dropped, undecodable = _handle_duplicates(config, workspace, context, usable, options, quiet)
        rejects += undecodable
        _check_rejects(rejects, len(listing), config)
    plan = make_plan(usable, config)
    settings = ShardSettings(
        str(workspace.build),
        str(workspace.results),
        config.name,
        config.encoding,
        config.sizes,
        config.rung_encoding,
        plan.bit_depth,
        plan.multi_label,
        len(plan.labels),
        config.max_pixels,
    )
    todo = [shard for shard in plan.shards if not read_finished(settings, shard, every_byte=True)]
    _check_disk(workspace, todo, settings)
    with log.stage("images_written", len(rejects)):
        results = _write_shards(workspace, context, plan, todo, settings, options, quiet)
    rejects += [reject for result in results for reject in result.rejects]
    _check_rejects(rejects, len(listing), config)
    _check_written(plan, results)
    _remove_strangers(plan, settings)
    finish(workspace.build, described, source.kind, settings, plan, usable, results, rejects, dropped)
    return sum(len(shard.images) for shard in todo), len(plan.shards) - len(todo)


def _read_headers(
    config: PreprocessConfig,
    workspace: Workspace,
    context: beam_pipeline.WorkerContext,
    listing: list[SourceImage],
    options: Any,
    quiet: bool,
) -> list[IndexRow]:
    # sorted, so that task files are the same whatever order the source was listed in
    ordered = sorted(listing, key=lambda image: image.path)
    tasks = write_tasks(workspace.index, (IndexRow(image, None) for image in ordered))
    beam_pipeline.run_tasks(
        beam_pipeline.ScanImages(context, config.max_pixels, config.salt),
        tasks,
        beam_pipeline.in_one_process(options),
        workspace.progress,
        len(listing),
        "reading headers",
        quiet,
    )
    return [row for task in tasks for row in read_rows(index_result_path(task))]


def _handle_duplicates(
    config: PreprocessConfig,
    workspace: Workspace,
    context: beam_pipeline.WorkerContext,
    rows: list[IndexRow],
    options: Any,
    quiet: bool,
) -> tuple[list[IndexRow], list[tuple[str, str]], list[tuple[str, str]]]:
    """Fails or drops where pixels are equal: (rows that stay, dropped, undecodable), the latter with reasons.

    Only images of equal size can have equal pixels, so only those are decoded here.
    """
    by_size = collections.Counter(_upright_size(row) for row in rows)
    candidates = [row for row in rows if by_size[_upright_size(row)] > 1]
    tasks = write_tasks(workspace.hashes, candidates)
    if tasks:
        beam_pipeline.run_tasks(
            beam_pipeline.HashPixels(context, config.max_pixels, common_bit_depth(rows)),
            tasks,
            options,
            workspace.progress,
            len(candidates),
            "finding duplicates",
            quiet,
        )
    hashed = [row for task in tasks for row in read_rows(index_result_path(task))]
    undecodable = [(row.image.path, row.reject) for row in hashed if row.reject]
    groups: dict[str, list[IndexRow]] = collections.defaultdict(list)
    for row in hashed:
        if row.pixel_hash:
            groups[row.pixel_hash].append(row)
    repeated = [sorted(group, key=_keep_order) for group in groups.values() if len(group) > 1]
    if repeated and config.duplicates == "fail":
        shown = "; ".join(" = ".join(row.image.path for row in group) for group in repeated[:_WORST])
        raise InputError(
            f"--duplicates fail: {sum(len(group) - 1 for group in repeated)} images repeat the pixels of another: "
            f"{shown}. Remove them from the source, or use --duplicates drop."
        )
    dropped = []
    for group in repeated:
        labels = {row.image.labels for row in group}
        if len(labels) > 1:
            raise InputError(
                f"--duplicates drop: {' and '.join(row.image.path for row in group)} have equal pixels and different "
                f"labels ({', '.join('|'.join(names) for names in sorted(labels))}), so no one can tell which to "
                "keep. Remove the wrong one from the source, or use --duplicates keep."
            )
        dropped += [(row.image.path, f"the same pixels as {group[0].image.path}") for row in group[1:]]
    gone = {path for path, _ in dropped} | {path for path, _ in undecodable}
    return [row for row in rows if row.image.path not in gone], dropped, undecodable


def _upright_size(row: IndexRow) -> tuple[int, int]:
    header = row.header
    if header is None:
        return (0, 0)
    size = (header.width, header.height)
    return size[::-1] if header.orientation >= 5 else size


def _keep_order(row: IndexRow) -> tuple[int, str]:
    """Of equal images, the one in test stays before val before train, so that no test set shrinks."""
    return (-split_order(row.image.split or "train")[0], row.image.path)


def _write_shards(
    workspace: Workspace,
    context: beam_pipeline.WorkerContext,
    plan: Plan,
    todo: Sequence[ShardPlan],
    settings: ShardSettings,
    options: Any,
    quiet: bool,
) -> list[ShardResult]:
    """Writes the shards `todo`; returns the results of all shards of the plan, in its order."""
    workspace.plan.mkdir(exist_ok=True)
    workspace.results.mkdir(exist_ok=True)
    tasks = []
    # largest first: dealt out in turn, the workers then get nearly equal bytes
    for shard in sorted(todo, key=lambda shard: -shard.bytes):
        tasks.append(workspace.plan / f"{shard.split}-{shard.index:05d}.json")
        write_atomically(tasks[-1], shard.to_json())
    if tasks:
        transform = beam_pipeline.WriteShards(context, settings)
        images = sum(len(shard.images) for shard in todo)
        beam_pipeline.run_tasks(transform, tasks, options, workspace.progress, images, "writing shards", quiet)
    results = [read_finished(settings, shard) for shard in plan.shards]
    missing = [f"{shard.split} {shard.index}" for shard, result in zip(plan.shards, results, strict=True) if not result]
    if missing:
        raise OutputError(
            f"the runner ended without writing {len(missing)} shards ({missing[0]} the first); run it again"
        )
    return [result for result in results if result]


def _check_written(plan: Plan, results: Sequence[ShardResult]) -> None:
    """Refuses a data set with a split of which no image could be used."""
    written: collections.Counter[str] = collections.Counter()
    for shard, result in zip(plan.shards, results, strict=True):
        written[shard.split] += len(result.images)
    empty = [split for split, count in written.items() if not count]
    if empty:
        raise InputError(f"the split '{empty[0]}' would be empty: none of its images can be decoded; mend them")


def _remove_strangers(plan: Plan, settings: ShardSettings) -> None:
    """Removes shards that an interrupted run wrote for another plan, before its source was changed."""
    shards = {path for shard in plan.shards for path in shard_paths(settings, shard).values()}
    known = shards | {index_path(path) for path in shards}
    for path in Path(settings.build).glob("*/*"):
        if path not in known:
            path.unlink()


def _check_rejects(
    rejects: Sequence[tuple[str, str | None]], total: int, config: PreprocessConfig, note: str = ""
) -> None:
    share = len(rejects) / total
    if len(rejects) == total:
        raise InputError(
            f"none of the {total} images of {config.input} can be read; the first: {rejects[0][0]}: {rejects[0][1]}"
        )
    if share > config.max_reject_fraction:
        worst = "".join(f"\n  {path}: {reason}" for path, reason in sorted(rejects)[:_WORST])
        more = f"\n  and {len(rejects) - _WORST} more" if len(rejects) > _WORST else ""
        needed = math.ceil(share * 10_000) / 10_000
        raise InputError(
            f"{len(rejects)} of {total} images cannot be used ({share:.2%}), more than --max-reject-fraction "
            f"{config.max_reject_fraction:g} allows:{worst}{more}\n"
            f"{note}mend or remove these images, or go on without them: --max-reject-fraction {needed:g}"
        )


def _check_disk(workspace: Workspace, todo: Sequence[ShardPlan], settings: ShardSettings) -> None:
    """Refuses a job that cannot fit on the disk, before it has filled it."""
    needed = sum(_estimate_output(image, settings) for shard in todo for image in shard.images)
    free = shutil.disk_usage(workspace.output).free
    if needed > free:
        raise OutputError(
            f"the disk is too full: the data set needs about {format_bytes(needed)} and {workspace.output} has "
            f"{format_bytes(free)} free. Free some space, choose another --output, or fewer --sizes."
        )


def _estimate_output(image: PlannedImage, settings: ShardSettings) -> int:
    depth = settings.bit_depth // 8
    # a rung's long side is not known here; a chest X-ray is at most about 1.5 times as wide as high
    return image.bytes + sum(min(image.pixels, round(1.5 * size * size)) * depth for size in settings.sizes)


def _versions() -> dict[str, str]:
    versions = {"schema": str(SCHEMA_VERSION)}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions

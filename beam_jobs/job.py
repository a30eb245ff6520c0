"""The preprocessing job from end to end: list, read headers, plan, write shards, audit, publish."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tabulate import tabulate

from beam_jobs.execution import pipeline as beam_pipeline
from beam_jobs.execution.limits import check_disk, check_rejects, check_written
from beam_jobs.execution.shard_writer import ShardResult, ShardSettings, read_finished, shard_paths
from beam_jobs.execution.workspace import Workspace
from beam_jobs.planning.duplicates import Deduplicated, find_candidates, resolve_duplicates
from beam_jobs.planning.headers import IndexRow, fingerprint_listing, read_rows, write_tasks
from beam_jobs.planning.headers import result_path as index_result_path
from beam_jobs.planning.plan import Plan, ShardPlan, common_bit_depth, count_splits, make_plan
from beam_jobs.preprocess_config import TFDS_PREFIX, PreprocessConfig
from beam_jobs.results.closing_report import JobSummary
from beam_jobs.results.finish import finish
from beam_jobs.results.job_log import JobLog
from beam_jobs.sources.image_list import ImageList, list_images
from beam_jobs.sources.source_image import SourceImage
from beam_jobs.sources.stores import Folder, Store, open_store
from beam_jobs.sources.tfds_source import materialize_tfds
from cxr.errors import InputError, OutputError
from cxr.files import read_json, write_atomically
from cxr.machine import usable_cores
from cxr.tables import TABLE_SUFFIXES, is_table
from tfrecords.format.manifest import read_manifest
from tfrecords.format.schema import SCHEMA_VERSION
from tfrecords.format.shards import AUDIT_NAME, REJECTS_NAME, index_path
from tfrecords.images.scale import FULL, choose_scale

_DISTRIBUTIONS = (
    "cxr-stream", "apache-beam", "numpy", "opencv-python-headless", "simplejpeg", "pillow", "blake3",
    "pydicom", "pylibjpeg", "python-gdcm", "scikit-learn",
)  # fmt: skip


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
            f"{error.strerror or error}{where}; fix that and run the same command again: finished shards are kept"
        ) from error


def _preprocess(config: PreprocessConfig, beam_arguments: Sequence[str], quiet: bool) -> JobSummary:
    began = time.monotonic()
    workspace = Workspace(config.output)
    if not config.input.startswith(TFDS_PREFIX):
        # before anything is made: an input that cannot be read must not leave an empty output behind
        source, catalogue = read_source(config)
        _refuse_output_in_input(source, workspace)
    with workspace.locked():
        if config.input.startswith(TFDS_PREFIX):
            archive = workspace.archive(f"{config.input} {config.tfds_data_dir}")
            source = materialize_tfds(config.input.removeprefix(TFDS_PREFIX), archive, config.tfds_data_dir, quiet)
            catalogue = list_images(source, dataclasses.replace(config.reading, trusted=True), layout="none")
        if not quiet:
            print("\n".join(catalogue.described), flush=True)
        listing = catalogue.images
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
                building = _Building(config, workspace, log, source, beam_arguments, quiet)
                written, kept = building.run(listing, catalogue.label_names, described)
            workspace.publish()
            took = time.monotonic() - began
            summary = _summarise(workspace, seconds=took, written_images=written, kept_shards=kept, logged=log.active)
            log.describe(summary)
        return summary


def describe_source(config: PreprocessConfig) -> str:
    """What a job would take its input for, and how many images of each label would come into each split.

    Splits by patient are those of the job, unless DICOM headers name the patients: files are not opened.

    Raises:
      InputError: as for `read_source`, or `make_plan` refuses what it says.
    """
    if config.input.startswith(TFDS_PREFIX):
        raise InputError(f"--dry-run: {config.input} has to be copied before it can be looked at; leave --dry-run out")
    _, catalogue = read_source(config)
    plan = make_plan([IndexRow(image, None) for image in catalogue.images], config, catalogue.label_names)
    splits = count_splits(plan, plan.images).items()
    rows = [[name, split.images, split.patients, *split.labels.values()] for name, split in splits]
    own = f"nothing names the patient of {plan.own_patients} images" if plan.own_patients else ""
    table = tabulate(rows, ["split", "images", "patients", *plan.labels])
    notes = [f"note: {note}" for note in (*plan.notes, own) if note]
    return "\n".join([*catalogue.described, "", table, "", *notes, "dry run: nothing was written"])


def read_source(config: PreprocessConfig) -> tuple[Store, ImageList]:
    """The files of an input that is no TFDS data set, and what it says of its images.

    Raises:
      InputError: it cannot be read, or what it means is not certain.
    """
    reading, location = config.reading, config.input
    if is_table(location.partition("#")[0]) and not Path(location).is_dir():
        table = os.path.abspath(location)  # noqa: PTH100 - a link is to keep its name
        location = config.images_root or os.path.dirname(table)  # noqa: PTH120
        reading = dataclasses.replace(reading, table=(table, *(reading.table or ())))
    elif config.images_root:
        raise InputError(
            f"--images-root {config.images_root}: only a table ({', '.join(TABLE_SUFFIXES)}) as --input has paths to "
            f"look for there; received --input {location}"
        )
    store = open_store(location)
    return store, list_images(store, reading, config.layout)


def _summarise(workspace: Workspace, **facts: Any) -> JobSummary:
    report = read_json(workspace.output / AUDIT_NAME)
    with open(workspace.output / REJECTS_NAME, encoding="utf-8") as file:
        rejects = tuple((row["path"], row["reason"]) for row in map(json.loads, file))
    return JobSummary(read_manifest(workspace.output), report, rejects, **facts)


def _refuse_output_in_input(source: Store, workspace: Workspace) -> None:
    root, output = Path(source.root).resolve(), workspace.output.resolve()
    if isinstance(source, Folder) and output.is_relative_to(root):
        where = f"the output {output} lies inside the input {root}"
        raise InputError(f"{where}, and would be taken for images; expected one elsewhere")


def _is_finished(workspace: Workspace, job: dict[str, Any], fingerprint: str) -> bool:
    """Whether the output holds the finished data set that `job` would make of the source."""
    manifest = None if workspace.built() else workspace.finished()
    return manifest is not None and manifest.options == job["options"] and manifest.source["listing"] == fingerprint


class _Building:
    """Writes a data set into the build directory of a locked workspace.

    Each stage continues where an interrupted job stopped.
    """

    def __init__(
        self, config: PreprocessConfig, workspace: Workspace, log: JobLog, source: Store,
        beam_arguments: Sequence[str], quiet: bool,
    ):  # fmt: skip
        self._config, self._workspace, self._log, self._quiet = config, workspace, log, quiet
        self._source = source
        self._options = beam_pipeline.make_options(beam_arguments, usable_cores())

    def run(
        self, listing: list[SourceImage], names: Sequence[str] | None, described: dict[str, Any]
    ) -> tuple[int, int]:
        """Does all of it: (images written, shards that were finished before)."""
        config, total = self._config, len(listing)
        with self._log.stage("headers_read"):
            rows = self._read_headers(listing)
        rejects = [(row.image.path, row.reject) for row in rows if row.reject]
        check_rejects(rejects, total, config, "so far only headers were read; ")  # before hours of writing
        usable = [row for row in rows if not row.reject]
        usable, scale, undecodable = self._choose_scale(usable)
        rejects += undecodable
        dropped: list[tuple[str, str]] = []
        if config.duplicates != "keep":
            with self._log.stage("images_compared", len(rejects)):
                usable, dropped, undecodable = self._compare_pixels(usable, scale)
            rejects += undecodable
            check_rejects(rejects, total, config)
        plan = make_plan(usable, config, names)
        settings = self._settings(plan, scale)
        todo = [shard for shard in plan.shards if not read_finished(settings, shard, every_byte=True)]
        check_disk(self._workspace.output, todo, settings)
        with self._log.stage("images_written", len(rejects)):
            results = self._write_shards(plan, todo, settings)
        rejects += [reject for result in results for reject in result.rejects]
        check_rejects(rejects, total, config)
        check_written(plan, results)
        _remove_strangers(plan, settings)
        build, kind = self._workspace.build, self._source.kind
        finish(build, described, kind, settings, plan, usable, results, rejects, dropped)
        return sum(len(shard.images) for shard in todo), len(plan.shards) - len(todo)

    def _run_tasks(
        self, name: str, work: beam_pipeline.Work, tasks: Sequence[Path], images: int, description: str,
        small: bool = False,
    ) -> None:  # fmt: skip
        """Runs one stage; one that is `small` in this process, where no cluster runs it."""
        options, progress = self._options, self._workspace.progress
        driver = os.getpid() if beam_pipeline.is_local(options) else None
        stage = beam_pipeline.Stage(name, work, self._source, progress, driver)
        if tasks:
            options = beam_pipeline.in_one_process(options) if small else options
            beam_pipeline.run_tasks(stage, tasks, options, progress, images, description, self._quiet)

    def _read_headers(self, listing: list[SourceImage]) -> list[IndexRow]:
        # sorted, so that task files are the same whatever order the source was listed in
        rows = [IndexRow(image, None) for image in sorted(listing, key=lambda image: image.path)]
        tasks = write_tasks(self._workspace.index, rows)
        work = partial(beam_pipeline.scan_task, max_pixels=self._config.max_pixels, salt=self._config.salt)
        self._run_tasks("ScanImages", work, tasks, len(rows), "reading headers", small=True)
        return _read_results(tasks)

    def _choose_scale(self, rows: list[IndexRow]) -> tuple[list[IndexRow], int, list[tuple[str, str]]]:
        """(usable rows, the scale of the data set in bits, (path, reason) of images that cannot be decoded)."""
        deep = [row for row in rows if row.header and row.header.bit_depth == 16]
        if self._config.scale == "full" or not deep:
            return rows, FULL, []
        tasks = write_tasks(self._workspace.hashes, deep)
        work = partial(beam_pipeline.count_bits_task, max_pixels=self._config.max_pixels)
        self._run_tasks("CountBits", work, tasks, len(deep), "finding the scale")
        counted = _read_results(tasks)
        rejects = [(row.image.path, row.reject) for row in counted if row.reject]
        bad = {path for path, _ in rejects}
        scale = choose_scale(self._config.scale, [row.bits_in_use for row in counted if not row.reject])
        return [row for row in rows if row.image.path not in bad], scale, rejects

    def _compare_pixels(self, rows: list[IndexRow], scale: int) -> Deduplicated:
        candidates = find_candidates(rows)
        tasks = write_tasks(self._workspace.hashes, candidates)
        depth = common_bit_depth(rows)
        work = partial(beam_pipeline.hash_task, max_pixels=self._config.max_pixels, bit_depth=depth, scale=scale)
        self._run_tasks("HashPixels", work, tasks, len(candidates), "finding duplicates")
        return resolve_duplicates(rows, _read_results(tasks), self._config.duplicates)

    def _settings(self, plan: Plan, scale: int) -> ShardSettings:
        config, workspace = self._config, self._workspace
        return ShardSettings(
            str(workspace.build), str(workspace.results), config.name, config.encoding, config.sizes,
            config.rung_encoding, plan.bit_depth, plan.multi_label, len(plan.labels), config.max_pixels,
            plan.unknown_labels, plan.groups, scale,
        )  # fmt: skip

    def _write_shards(self, plan: Plan, todo: Sequence[ShardPlan], settings: ShardSettings) -> list[ShardResult]:
        """Writes the shards `todo`; returns the results of all shards of the plan, in its order."""
        self._workspace.plan.mkdir(exist_ok=True)
        self._workspace.results.mkdir(exist_ok=True)
        tasks = []
        # largest first: dealt out in turn, the workers then get nearly equal bytes
        for shard in sorted(todo, key=lambda shard: -shard.bytes):
            tasks.append(self._workspace.plan / f"{shard.split}-{shard.index:05d}.json")
            write_atomically(tasks[-1], shard.to_json())
        work = partial(beam_pipeline.write_task, settings=settings)
        self._run_tasks("WriteShards", work, tasks, sum(len(shard.images) for shard in todo), "writing shards")
        results = [read_finished(settings, shard) for shard in plan.shards]
        pairs = zip(plan.shards, results, strict=True)
        missing = [f"{shard.split} {shard.index}" for shard, result in pairs if not result]
        if missing:
            what = f"{len(missing)} shards ({missing[0]} the first)"
            raise OutputError(f"the runner ended without writing {what}; run it again")
        return [result for result in results if result]


def _read_results(tasks: Sequence[Path]) -> list[IndexRow]:
    return [row for task in tasks for row in read_rows(index_result_path(task))]


def _remove_strangers(plan: Plan, settings: ShardSettings) -> None:
    """Removes shards that an interrupted run wrote for another plan, before its source was changed."""
    shards = {path for shard in plan.shards for path in shard_paths(settings, shard).values()}
    known = shards | {index_path(path) for path in shards}
    for path in Path(settings.build).glob("*/*"):
        if path not in known:
            path.unlink()


def _versions() -> dict[str, str]:
    versions = {"schema": str(SCHEMA_VERSION)}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions

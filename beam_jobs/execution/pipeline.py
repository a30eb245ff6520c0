"""The Beam side: what runs on workers, and how a pipeline is run here or on a cluster.

Every stage has the same shape. The driver writes small task files, `Create` sends their paths, `Reshuffle`
spreads them, and a DoFn hands each to a plain function that writes its result beside it under a temporary
name and renames it. So only paths cross a shuffle, a task that is done is never done again (by a retry, a
second attempt, or a job that continues), and every runner gives the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options import pipeline_options

from beam_jobs.execution.progress import ProgressWriter, run_with_bar
from beam_jobs.execution.shard_writer import ShardSettings, write_shard
from beam_jobs.planning.headers import count_bits, hash_image, run_task, scan_image
from beam_jobs.planning.plan import ShardPlan
from beam_jobs.sources.stores import Store
from cxr.errors import CxrError, UsageError
from cxr.options import nearest

LOCAL_RUNNER = "FnApiRunner"
"""Beam's own local runner; what `DirectRunner` stands for first looks for another, downloaded, one."""
_LOCAL_NAMES = ("fnapirunner", "directrunner", "direct", "switchingdirectrunner", "bundlebaseddirectrunner")


Report = Callable[[int, int], None]
Work = Callable[[Path, Store, Report], dict[str, int]]
"""Does one task, a file, on images of the source; told images and bytes as they are done, and returns what to count."""


class Stage(beam.DoFn):
    """A DoFn over task files that reports progress and turns expected errors into an output.

    An expected error (a full disk, a missing package) goes to the driver as text: raised here, it would be
    retried by a cluster, and reach the person as the end of a traceback.

    Args:
      name: of the step.
      work: does one task.
      source: of the images.
      progress: the progress folder.
      driver: id of the driver's process, where it is on the same machine.
    """

    _progress: ProgressWriter

    def __init__(self, name: str, work: Work, source: Store, progress: Path, driver: int | None):
        self.name, self._work, self._source = name, work, source
        self._folder, self._driver = progress, driver

    def setup(self) -> None:
        self._progress = ProgressWriter(self._folder, self._driver)

    def process(self, task: str) -> Iterable[str]:
        try:
            if not errors_path(self._folder).exists():  # else the job has failed already
                for counter, count in self._work(Path(task), self._source, self._report).items():
                    Metrics.counter("cxr", counter).inc(count)
        except CxrError as error:
            yield str(error)
        finally:
            self._progress.flush()

    def _report(self, images: int, size: int) -> None:
        Metrics.counter("cxr", "images").inc(images)
        Metrics.counter("cxr", "source_bytes").inc(size)
        self._progress.add(images, size)


def scan_task(task: Path, source: Store, report: Report, *, max_pixels: int, salt: str) -> dict[str, int]:
    """Reads the header of every image of a task (`headers.write_tasks`); the rows are written beside the task."""
    rows = run_task(task, lambda row: scan_image(source, row.image, max_pixels, salt), report)
    return {"unreadable_headers": sum(row.reject is not None for row in rows)}


def count_bits_task(task: Path, source: Store, report: Report, *, max_pixels: int) -> dict[str, int]:
    """Decodes every image of a task; its rows with the bits in use are written beside the task."""
    run_task(task, lambda row: count_bits(source, row, max_pixels), report)
    return {}


def hash_task(
    task: Path, source: Store, report: Report, *, max_pixels: int, bit_depth: int, scale: int
) -> dict[str, int]:
    """Decodes every image of a task; its rows with pixel hashes are written beside the task."""
    run_task(task, lambda row: hash_image(source, row, max_pixels, bit_depth, scale), report)
    return {}


def write_task(task: Path, source: Store, report: Report, *, settings: ShardSettings) -> dict[str, int]:
    """Writes the shard of a task, a plan, in every rung."""
    result = write_shard(settings, ShardPlan.from_json(task.read_text(encoding="utf-8")), source, report)
    written = sum(shard.bytes for shard in result.files.values())
    return {"shards": 1, "rejects": len(result.rejects), "written_bytes": written}


def check_beam_arguments(arguments: Sequence[str], own_options: Iterable[str]) -> None:
    """Refuses what is neither one of this command's own options nor one of Beam's; Beam itself would ignore it.

    Raises:
      UsageError: an unknown option, naming the closest known one; or a value that Beam refuses.
    """

    def refuse(message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))

    parser = pipeline_options._BeamArgumentParser(add_help=False, allow_abbrev=False)
    for options in pipeline_options.PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    parser.error = refuse  # type: ignore[method-assign] # its own prints two pages of usage
    found, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        hint = nearest(unknown[0].split("=")[0], [*own_options, *parser._option_string_actions])
        hint = hint or "; neither `cxr preprocess --help` nor Apache Beam knows it"
        raise UsageError(f"unknown {'option' if unknown[0].startswith('-') else 'argument'} {unknown[0]!r}{hint}")
    if (workers := found.direct_num_workers) < 0:
        raise UsageError(f"--direct_num_workers {workers}: expected a whole number of at least 0; 0 is one a core")


def make_options(arguments: Sequence[str], workers: int) -> pipeline_options.PipelineOptions:
    """Beam's options: the arguments asked for, and so many local worker processes where they do not name a runner."""
    # glibc's allocator keeps freed images in an arena for each thread; with two, a worker peaks at 190 MB, not 300
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    names = {argument.split("=")[0] for argument in arguments}
    extra = list(arguments)
    asked = pipeline_options.PipelineOptions(extra).view_as(pipeline_options.StandardOptions).runner
    if asked is None or asked.lower() in _LOCAL_NAMES:
        extra.append(f"--runner={LOCAL_RUNNER}")
        if "--direct_running_mode" not in names:
            extra.append("--direct_running_mode=multi_processing")
            if "--direct_num_workers" not in names:
                extra.append(f"--direct_num_workers={workers}")
    return pipeline_options.PipelineOptions(extra)


def in_one_process(options: pipeline_options.PipelineOptions) -> pipeline_options.PipelineOptions:
    """The same options for a stage too small to start processes for; unchanged where a cluster runs it."""
    return pipeline_options.PipelineOptions([f"--runner={LOCAL_RUNNER}"]) if is_local(options) else options


def is_local(options: pipeline_options.PipelineOptions) -> bool:
    """Whether the local runner runs the pipeline."""
    return options.view_as(pipeline_options.StandardOptions).runner == LOCAL_RUNNER


def run_tasks(
    stage: Stage, tasks: Sequence[Path], options: pipeline_options.PipelineOptions, progress: Path, images: int,
    description: str, quiet: bool,
) -> None:  # fmt: skip
    """Runs one stage to its end, with a progress bar.

    Args:
      stage: what workers do with each task.
      tasks: task files; the local runner deals them out in this order, like cards.
      options: Beam's.
      progress: the progress folder.
      images, description: number of images in all tasks, and what is being done, for the bar.
      quiet: show no bar.

    Raises:
      CxrError: what went wrong in a worker, as it said it.
    """
    errors = errors_path(progress)
    errors.unlink(missing_ok=True)

    def run() -> None:
        pipeline = beam.Pipeline(options=options)
        _ = (
            pipeline
            | "Tasks" >> beam.Create([str(task) for task in tasks], reshuffle=False)
            | "Spread" >> beam.Reshuffle()
            | stage.name >> beam.ParDo(stage)
            | "KeepErrors" >> beam.ParDo(_KeepErrorFn(str(errors)))
        )
        pipeline.run().wait_until_finish()

    log = progress.with_name("beam.log")
    try:
        # what a cluster says is for the person to see; the local runner's workers only tell of themselves
        run_with_bar(run, progress, images, description, log if is_local(options) else None, quiet)
    except Exception as error:  # whatever a runner raises: a worker's traceback, of which the last line says what
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{error}\n")
        last = str(error).strip().splitlines()[-1] if str(error).strip() else ""
        raise CxrError(f"the Beam pipeline failed: {type(error).__name__}: {last} (full log: {log})") from error
    if errors.exists():
        first = errors.read_text(encoding="utf-8").splitlines()[0]
        raise CxrError(json.loads(first))


def errors_path(progress: Path) -> Path:
    """Where error texts are kept, beside the progress folder."""
    return progress.with_name("errors.jsonl")


class _KeepErrorFn(beam.DoFn):
    """Appends error texts to a file that the driver reads."""

    def __init__(self, path: str):
        self._path = path

    def process(self, error: str) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(error) + "\n")

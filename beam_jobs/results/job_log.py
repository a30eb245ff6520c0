"""A job in TensorBoard: how far it is while it runs, and what it made when it is done.

The logs lie in `OUTPUT/tensorboard/`, beside the data set and no part of it: they hold times, so no two jobs write
the same; readers, `cxr verify` and the manifest know nothing of them, and the folder may be deleted. They lie in
the output, not beside it, so that they go where the data set goes and `cxr board` finds them over any folder above.
"""

from __future__ import annotations

import contextlib
import json
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tabulate import tabulate

from beam_jobs.execution.progress import read_progress
from beam_jobs.execution.workspace import Workspace
from beam_jobs.results.closing_report import JobSummary, audit_text
from cxr.errors import CxrError, MissingExtraError
from cxr.events import EventWriter, is_event_file
from tfrecords.format.manifest import Manifest
from tfrecords.inspect import contact_sheet
from tfrecords.summary import manifest_tables

LOG_NAME = "tensorboard"
"""Folder of the logs in the output directory."""
_SHOWN = 200
"""Rejects listed; all are in rejects.jsonl."""
_EXAMPLES = 12
"""Images on a contact sheet."""
_COLUMNS = 120
_SHORTEST_RATE = 0.5
"""Seconds over which images/s are at least measured."""
_TIMED = "Over the seconds since the job began."


class JobLog:
    """Writes the logs of one job; does nothing where the package `tensorboard` is not installed.

    Logs that an earlier job left stay until this one has succeeded. What cannot be written, on a full disk for
    example, is left out: the job is more important than its logs. The job has begun in its workspace.
    """

    def __init__(self, workspace: Workspace):
        self.folder = workspace.output / LOG_NAME
        self._workspace = workspace
        self._began = time.monotonic()
        self._before = [path for path in self.folder.glob("*") if is_event_file(path.name)]
        self._events: EventWriter | None = None
        with contextlib.suppress(MissingExtraError, OSError):
            self._events = EventWriter(self.folder)

    def __enter__(self) -> JobLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()

    @property
    def active(self) -> bool:
        """Whether logs are written."""
        return self._events is not None

    @contextlib.contextmanager
    def stage(self, done: str, rejects: int = 0) -> Iterator[None]:
        """Follows a stage of the job for as long as the block runs; so many rejects are known before it.

        `done` is what it counts, such as `images_written`: the tags are `job/images_written` and the like.
        """
        if self._events is None:
            yield
            return
        follower = _Follower(self._events, self._workspace, done, self._began, rejects)
        try:
            yield
        finally:
            follower.end()

    def describe(self, summary: JobSummary) -> None:
        """Adds what the finished data set is, and forgets the logs of earlier jobs."""
        if self._events is None:
            return
        with contextlib.suppress(OSError, CxrError):
            _write_texts(self._events, summary)
            _write_sizes(self._events, summary.manifest)
            _write_examples(self._events, summary.manifest, self._workspace.output)
            self._events.flush()
            for path in self._before:
                path.unlink(missing_ok=True)


class _Follower:
    """Writes how far a stage is: every second at first, then ever more rarely, so that no log grows large."""

    def __init__(self, events: EventWriter, workspace: Workspace, done: str, began: float, rejects: int):
        self._events, self._workspace, self._tag = events, workspace, f"job/{done}"
        self._job_began, self._rejects = began, rejects
        self._counted: dict[str, int] = {}
        self._ended = threading.Event()
        self._started = self._rated = time.monotonic()
        self._rated_images = 0
        self._thread = threading.Thread(target=self._run, name=f"follow {self._tag}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Writes the last point."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while not self._ended.wait(max(1.0, (time.monotonic() - self._started) / 200)):
                self._look()
            self._look()

    def _look(self) -> None:
        images, _ = read_progress(self._workspace.progress)
        now = time.monotonic()
        if not images:  # workers are still starting: nothing to see, and no part of their rate
            self._rated = now
            return
        step = round(now - self._job_began)
        self._events.scalar(self._tag, images, step, _TIMED)
        self._events.scalar("job/rejects", self._count_rejects(), step, f"Images left out so far. {_TIMED}")
        if now - self._rated >= _SHORTEST_RATE:
            rate = (images - self._rated_images) / (now - self._rated)
            self._events.scalar(f"{self._tag}_per_second", rate, step, _TIMED)
            self._rated, self._rated_images = now, images
        self._events.flush()

    def _count_rejects(self) -> int:
        """Rejects known before, and those of the shards finished so far."""
        for path in self._workspace.results.glob("[!.]*.json"):
            if path.name not in self._counted:
                with contextlib.suppress(OSError, ValueError, KeyError):
                    self._counted[path.name] = len(json.loads(path.read_text(encoding="utf-8"))["rejects"])
        return self._rejects + sum(self._counted.values())


def _write_texts(events: EventWriter, summary: JobSummary) -> None:
    manifest = summary.manifest
    rejects = [f"{len(summary.rejects)} images left out; rejects.jsonl has them all"] if summary.rejects else ["none"]
    rejects += [f"{path}: {reason}" for path, reason in summary.rejects[:_SHOWN]]
    rejects += ["..."] if len(summary.rejects) > _SHOWN else []
    options = tabulate([(name, json.dumps(value)) for name, value in manifest.options.items()], ["option", "value"])
    versions = tabulate(manifest.versions.items(), ["software", "version"], disable_numparse=True)
    events.text("data_set/audit", _as_printed(audit_text(summary.audit)), 0)
    events.text("data_set/images", _as_printed(manifest_tables(manifest)), 0)
    events.text("data_set/options", _as_printed(f"{options}\n\n{versions}"), 0)
    events.text("data_set/rejects", _as_printed("\n".join(rejects)), 0)


def _as_printed(text: str) -> str:
    """Plain text as Markdown that shows it in columns, as it is, with long lines broken."""
    lines = [
        part
        for line in text.splitlines()
        for part in textwrap.wrap(line, _COLUMNS, subsequent_indent="  ", replace_whitespace=False) or [""]
    ]
    return textwrap.indent("\n".join(lines), "    ", lambda _: True)


def _write_sizes(events: EventWriter, manifest: Manifest) -> None:
    """Histograms of height, width and area, out of the cells that the manifest counts."""
    step, cells = manifest.sizes["step"], np.asarray(manifest.sizes["counts"])
    counts = cells[:, 2]
    sides = (cells[:, :2] + 0.5) * step
    for name, values in (("height", sides[:, 0]), ("width", sides[:, 1])):
        edges = np.arange(values.min() - step / 2, values.max() + step, step)
        events.histogram(f"image_size/{name}", values.repeat(counts), 0, edges, "Pixels of full images.")
    area = sides.prod(axis=1).repeat(counts) / 1e6
    events.histogram("image_size/megapixels", area, 0, 30, "Of full images, to about a tenth.")


def _write_examples(events: EventWriter, manifest: Manifest, root: Path) -> None:
    for split in manifest.splits:
        sheet = np.asarray(contact_sheet(root, manifest, split, _EXAMPLES))
        text = f"Up to {_EXAMPLES} images of {split}, of each label as many. A click on it shows it as large as it is."
        events.image(f"examples/{split}", sheet, 0, text)

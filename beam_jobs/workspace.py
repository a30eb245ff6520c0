"""The output directory while a job runs: one lock, one unfinished job, and a publication that cannot be seen half-way.

    DIR/.work/job.json       what the unfinished job is
    DIR/.work/index/         headers read so far
    DIR/.work/plan/          one file a shard
    DIR/.work/results/       one file a finished shard
    DIR/.work/build/         the data set in the making

A finished data set of the same directory stays readable until the new one is whole. Publication removes
the old manifest, moves the new folders into place and the new manifest last; stopped anywhere, it is
carried on by the next run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blake3

from tfrecords.errors import DatasetError, OutputError
from tfrecords.manifest import Manifest, read_manifest, write_atomically
from tfrecords.shards import AUDIT_NAME, FULL_RUNG, MANIFEST_NAME, REJECTS_NAME

WORK_NAME = ".work"
_RUNG_FOLDER = re.compile(rf"{FULL_RUNG}|\d+")


class Workspace:
    """The output directory of one job.

    Args:
      output: the directory; made where it does not exist.
    """

    def __init__(self, output: str | Path):
        self.output = Path(output)
        self.work = self.output / WORK_NAME
        self.index = self.work / "index"
        self.hashes = self.work / "hashes"
        self.plan = self.work / "plan"
        self.results = self.work / "results"
        self.build = self.work / "build"
        self.progress = self.work / "progress"
        self._job = self.work / "job.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the directory for this process; the lock goes with the process, however it ends.

        Raises:
          OutputError: another job holds it, or it cannot be made or written, or holds something else.
        """
        created = not self.output.exists()
        try:
            self._refuse_foreign()
            self.work.mkdir(parents=True, exist_ok=True)
            lock = open(self.work / "lock", "a+")  # noqa: SIM115 - closed below
        except OSError as error:
            raise OutputError(
                f"cannot write to {self.output}: {error.strerror}. Give --output a directory you may write to."
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise OutputError(f"cannot lock {self.output}: {error.strerror}") from error
                raise OutputError(f"another job is writing to {self.output}; wait for it, or stop it") from error
            try:
                yield
            finally:
                if not self._job.exists():
                    shutil.rmtree(self.work, ignore_errors=True)
                    if created:
                        with contextlib.suppress(OSError):
                            self.output.rmdir()

    def _refuse_foreign(self) -> None:
        """A directory that holds neither a data set nor an unfinished job is somebody else's."""
        if not self.output.exists():
            return
        if not self.output.is_dir():
            raise OutputError(f"the output {self.output} is a file; expected a directory")
        entries = {entry.name for entry in self.output.iterdir()}
        if entries and not entries & {WORK_NAME, MANIFEST_NAME}:
            raise OutputError(
                f"the output {self.output} holds something else ({', '.join(sorted(entries)[:3])}); "
                "expected a new or empty directory, or one that `cxr preprocess` made"
            )

    def finished(self) -> Manifest | None:
        """The manifest of the data set that the directory holds, or None.

        Raises:
          DatasetError: there is one that this version cannot read.
        """
        return read_manifest(self.output) if (self.output / MANIFEST_NAME).exists() else None

    def begin(self, job: dict[str, Any], overwrite: bool) -> bool:
        """Takes up the unfinished job of the directory where it is `job`, else begins it.

        Args:
          job: what the job is: options, source and versions, as JSON types.
          overwrite: discard a finished data set, or an unfinished other job.

        Returns:
          Whether an unfinished job is continued.

        Raises:
          OutputError: the directory holds another data set, or another unfinished job.
        """
        if self._job.exists():
            held = json.loads(self._job.read_text(encoding="utf-8"))
            if held == job:
                self._remove_temporary_files()
                return True
            if not overwrite and any(self.results.glob("*.json")):  # headers alone are soon read again
                raise OutputError(
                    f"{self.output} holds an unfinished job with other settings ({_describe_difference(held, job)}). "
                    "Run it with the same settings to finish it, or discard it with --overwrite."
                )
            self._clear()
        if not overwrite:
            try:
                manifest = self.finished()
            except DatasetError as error:
                raise OutputError(
                    f"{self.output} holds another data set: {error} Replace it with --overwrite."
                ) from error
            if manifest is not None:
                difference = _describe_difference(
                    {"options": manifest.options, "listing": manifest.source["listing"]}, job
                )
                raise OutputError(
                    f"{self.output} holds another data set ({difference}). "
                    "Give another --output, or replace it with --overwrite."
                )
        self._clear()
        write_atomically(self._job, json.dumps(job, sort_keys=True, indent=1))
        return False

    def archive(self, source: str) -> Path:
        """Where a source that has no files of its own is copied to."""
        return self.work / f"{blake3.blake3(source.encode()).hexdigest(16)}.zip"

    def is_built(self) -> bool:
        """Whether the new data set is whole and only has to be published."""
        return (self.build / MANIFEST_NAME).exists()

    def publish(self) -> None:
        """Moves the new data set into place; the manifest last."""
        (self.output / MANIFEST_NAME).unlink(missing_ok=True)
        rungs = Manifest.from_json((self.build / MANIFEST_NAME).read_text(encoding="utf-8")).rungs
        for entry in list(self.output.iterdir()):
            if entry.is_dir() and _RUNG_FOLDER.fullmatch(entry.name) and entry.name not in rungs:
                shutil.rmtree(entry)
        for name in (*rungs, AUDIT_NAME, REJECTS_NAME):
            new, old = self.build / name, self.output / name
            if not new.exists():
                continue  # moved before an interruption
            if old.is_dir():
                shutil.rmtree(old)
            new.replace(old)
        (self.build / MANIFEST_NAME).replace(self.output / MANIFEST_NAME)
        self.close()

    def close(self) -> None:
        """Forgets the job: nothing of it is left to continue."""
        self._job.unlink(missing_ok=True)  # first: without it the rest is rubbish that anyone may clear

    def _clear(self) -> None:
        self.close()
        for entry in self.work.iterdir():
            if entry.name == "lock" or entry.suffix == ".zip":
                continue  # a source that was copied here is as good for another job
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _remove_temporary_files(self) -> None:
        for folder, _, names in os.walk(self.work):
            for name in names:
                if name.endswith(".tmp"):
                    Path(folder, name).unlink(missing_ok=True)


def _describe_difference(held: dict[str, Any], job: dict[str, Any]) -> str:
    """The first thing in which two jobs differ, for a message."""
    before, now = held.get("options", {}), job["options"]
    for option in sorted({*before, *now}):
        if before.get(option) != now.get(option):
            flag = "--" + option.replace("_", "-")
            return f"{flag} was {before.get(option)!r} and is {now.get(option)!r}"
    return "the images of the source are others" if held.get("listing") != job["listing"] else "versions differ"

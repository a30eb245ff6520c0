"""The output directory while a job runs: one lock, one unfinished job, and a publication that cannot be seen half-way.

    DIR/.work/job.json       options and versions of the unfinished job
    DIR/.work/index/         headers read so far
    DIR/.work/hashes/        pixel hashes, where duplicates have to be known before writing
    DIR/.work/plan/          one file a shard
    DIR/.work/results/       one file a finished shard, and the outer rings of its images
    DIR/.work/build/         the data set in the making
    DIR/.work/*.zip          a TFDS source, copied
    DIR/.work/old/           folders of the data set that is being replaced
    DIR/.work/progress/, lock, beam.log, errors.jsonl

A finished data set of the same directory stays readable until the new one is whole. Publication removes
the old manifest, moves the old folders away and the new ones in, and the new manifest last; stopped
anywhere, it is carried on by the next run. Whoever reads the old data set meanwhile finds its shards gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blake3

from cxr.errors import DatasetError, OutputError
from cxr.files import is_temporary, locked, read_json, remove_temporary, sync, write_atomically
from tfrecords.format.manifest import Manifest, read_manifest
from tfrecords.format.shards import AUDIT_NAME, AUDIT_PAGE_NAME, MANIFEST_NAME, REJECTS_NAME

WORK_NAME = ".work"
_OURS = "cxr-stream job"


class Workspace:
    """The output directory of one job.

    Args:
      output: the directory; made where it does not exist.
    """

    def __init__(self, output: str | Path):
        self.output = Path(os.path.abspath(output))  # noqa: PTH100 - workers may have another working directory
        self.work = self.output / WORK_NAME
        self.index = self.work / "index"
        self.hashes = self.work / "hashes"
        self.plan = self.work / "plan"
        self.results = self.work / "results"
        self.build = self.work / "build"
        self.progress = self.work / "progress"
        self._old = self.work / "old"
        self._job = self.work / "job.json"
        self._replaced = self.work / "replaced.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the directory for this process; the lock goes with the process, however it ends.

        Raises:
          OutputError: another job holds it, or it cannot be made or written, or holds something else.
        """
        created = not os.path.lexists(self.output)
        try:
            self._refuse_foreign()
        except OSError as error:
            why = f"cannot read {self.output}: {error.strerror}"
            raise OutputError(f"{why}. Give --output a directory you may write to.") from error
        with locked(self.work / "lock", f"another job is writing to {self.output}; wait for it, or stop it"):
            try:
                self._forget_published()
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
        known = (MANIFEST_NAME in entries and self._holds_data_set()) or (WORK_NAME in entries and self._holds_work())
        if entries and not known:
            raise OutputError(
                f"the output {self.output} holds something else ({', '.join(sorted(entries)[:3])}); "
                "expected a new or empty directory, or one that `cxr preprocess` made"
            )

    def _holds_data_set(self) -> bool:
        """Whether the manifest is one of ours, be it of another schema version."""
        found = _read_object(self.output / MANIFEST_NAME)
        return {"schema_version", "rungs", "labels", "pixel_hash"} <= found.keys()

    def _holds_work(self) -> bool:
        """Whether `.work` is ours: it holds a job, or nothing yet but what is made first."""
        others = [path for path in self.work.iterdir() if path.name != "lock" and path.suffix != ".zip"]
        return _read_object(self._job).get("kind") == _OURS or all(is_temporary(path.name) for path in others)

    def _forget_published(self) -> None:
        """A job that was killed right after its last move has nothing left to do."""
        if self._replaced.exists() and (self.output / MANIFEST_NAME).exists() and self.built() is None:
            self.close()

    def finished(self) -> Manifest | None:
        """The manifest of the data set that the directory holds, or None.

        Raises:
          DatasetError: there is one that this version cannot read.
        """
        return read_manifest(self.output) if (self.output / MANIFEST_NAME).exists() else None

    def begin(self, job: dict[str, Any], overwrite: bool) -> None:
        """Takes up the unfinished job of the directory where it is `job`, else begins it.

        Args:
          job: what the job is: options and versions, as JSON types.
          overwrite: discard a finished data set, or an unfinished other job.

        Raises:
          OutputError: the directory holds another data set, or another unfinished job.
        """
        job = {"kind": _OURS, **job}
        if self._job.exists():
            held = _read_object(self._job)
            if held == job:
                remove_temporary(self.work)
                return
            if not overwrite and any(self.results.glob("*.json")):  # headers alone are soon read again
                raise OutputError(
                    f"{self.output} holds an unfinished job with other settings ({_describe_difference(held, job)}). "
                    "Run it with the same settings to finish it, or discard it with --overwrite."
                )
        if not overwrite:
            try:
                manifest = self.finished()
            except DatasetError as error:
                what = f"{self.output} holds another data set: {error}"
                raise OutputError(f"{what}. Replace it with --overwrite.") from error
            if manifest is not None:
                difference = _describe_difference({"options": manifest.options}, job)
                raise OutputError(
                    f"{self.output} holds another data set ({difference}). "
                    "Give another --output, or replace it with --overwrite."
                )
        self._clear()
        write_atomically(self._job, json.dumps(job, sort_keys=True, indent=1))

    def archive(self, source: str) -> Path:
        """Where a source that has no files of its own is copied to."""
        return self.work / f"{blake3.blake3(source.encode()).hexdigest(16)}.zip"

    def built(self) -> Manifest | None:
        """The manifest of the new data set where it is whole and only has to be published, else None."""
        path = self.build / MANIFEST_NAME
        return Manifest.from_json(path.read_text(encoding="utf-8"), path) if path.exists() else None

    def publish(self) -> None:
        """Moves the new data set into place; the manifest last.

        Raises:
          OutputError: something that is no part of a data set is in the way.
        """
        manifest = self.built()
        if manifest is None:
            raise OutputError(f"{self.build} holds no finished data set")
        if not self._replaced.exists():
            replaced = sorted(_read_object(self.output / MANIFEST_NAME).get("rungs", {}))
            write_atomically(self._replaced, json.dumps(replaced))
        replaced = json.loads(self._replaced.read_text(encoding="utf-8"))
        for rung in manifest.rungs:
            if (self.build / rung).exists() and os.path.lexists(self.output / rung) and rung not in replaced:
                raise OutputError(f"{self.output / rung} is in the way and no part of a data set; move it elsewhere")
        (self.output / MANIFEST_NAME).unlink(missing_ok=True)
        self._old.mkdir(exist_ok=True)
        for rung in {*replaced, *manifest.rungs}:
            new, place = self.build / rung, self.output / rung
            if os.path.lexists(place) and (new.exists() or rung not in manifest.rungs):
                place.replace(self._old / rung)
            if new.exists():  # else moved before an interruption
                sync(new)
                new.replace(place)
        for name in (AUDIT_NAME, AUDIT_PAGE_NAME, REJECTS_NAME, MANIFEST_NAME):
            if (self.build / name).exists():
                (self.build / name).replace(self.output / name)
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


def _read_object(path: Path) -> dict[str, Any]:
    """A file's JSON object; empty where there is none."""
    try:
        return read_json(path)
    except DatasetError:
        return {}


def _describe_difference(held: dict[str, Any], job: dict[str, Any]) -> str:
    """The first thing in which two jobs differ, for a message."""
    before, now = held.get("options", {}), job["options"]
    for option in sorted({*before, *now}):
        if before.get(option) != now.get(option):
            if option == "patient_salt":
                return "the salt of the patient ids has changed"
            flag = "--" + option.replace("_", "-")
            return f"{flag} was {before.get(option)!r} and is {now.get(option)!r}"
    if held.get("versions", job["versions"]) != job["versions"]:
        return "it was started with other software versions"
    return "the images of the source have changed"

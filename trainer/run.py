"""The directory of a training run: all that is needed to use, resume or repeat it.

RUN/run.json              configuration, facts of the data, versions, seed, commit, command line, state
RUN/history.csv           one row an epoch
RUN/checkpoints/          last.npz, to resume from; best.weights.h5, the weights to use
RUN/tensorboard/          train/ and validation/, evaluation/SPLIT/
RUN/operating_point.json  chosen on validation
RUN/evaluation/SPLIT/     metrics.json, predictions.csv, report.html, pictures
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import blake3

from cxr.errors import DatasetError, InputError, OutputError
from cxr.files import locked as lock_file
from cxr.files import read_json, remove_temporary, write_atomically, write_json
from trainer.facts import DataFacts
from trainer.train_config import TrainConfig

RUN_NAME = "run.json"
_WEIGHTS = Path("checkpoints", "best.weights.h5")
FORMAT = 1
_PACKAGES = ("cxr-stream", "tensorflow", "tensorflow-cpu", "keras", "jax", "numpy", "scikit-learn")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's directory, opened.

    Attributes:
      root: the directory.
      config: of the run.
      facts: of the data that it was started on.
      preset: name of the preset that it was started from, or None.
      made: when, by which command, on what; for people.
    """

    root: Path
    config: TrainConfig
    facts: DataFacts
    preset: str | None = None
    made: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.root.resolve().name

    @property
    def last_checkpoint(self) -> Path:
        """What training resumes from."""
        return self.root / "checkpoints" / "last.npz"

    @property
    def best_weights(self) -> Path:
        """Weights of the best epoch, in Keras's format."""
        return self.root / _WEIGHTS

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.root / "tensorboard"

    @property
    def operating_point(self) -> Path:
        """File of the thresholds chosen on validation."""
        return self.root / "operating_point.json"

    @property
    def history(self) -> Path:
        """Table of the epochs."""
        return self.root / "history.csv"

    def check_weights(self) -> None:
        """Raises DatasetError unless there are weights to use; cheap, so that nothing large is loaded before."""
        if self.best_weights.exists():
            return
        if self.state == "finished":
            raise DatasetError(f"the run {self.root} has lost its weights, {self.best_weights}; train it again")
        raise DatasetError(
            f"the run {self.root} has no weights yet: no epoch of it has ended. "
            f"`cxr train --run {self.root} --resume` resumes it"
        )

    def weights_digest(self) -> str:
        """BLAKE3 of the weights to use; empty where there are none yet."""
        return weights_digest(self.root)

    def evaluation(self, split: str) -> Path:
        """Folder of what `cxr evaluate` says of a split."""
        return self.root / "evaluation" / split

    @property
    def state(self) -> str:
        """`running` (or stopped on the way), or `finished`."""
        return str(_read_json(self.root)["state"])

    def finish(self, **outcome: Any) -> None:
        """Notes that training is over, and how it ended."""
        fields = _read_json(self.root)
        fields.update(state="finished", finished=_now(), outcome=outcome)
        write_json(self.root / RUN_NAME, fields)

    def read_outcome(self) -> dict[str, Any]:
        """How training ended: `epochs`, `best_epoch` from 1, and `best`, its monitored metric; empty before."""
        return dict(_read_json(self.root).get("outcome", {}))

    def write_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Writes the table of epochs anew."""
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.history, text.getvalue())

    def read_history(self) -> list[dict[str, float]]:
        """The epochs so far; empty before the first has ended."""
        if not self.history.exists():
            return []
        with open(self.history, encoding="utf-8", newline="") as file:
            try:
                return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
            except (TypeError, ValueError) as error:
                raise DatasetError(f"{self.history} is damaged: {error}") from error


def weights_digest(root: Path) -> str:
    """`Run.weights_digest` of the run in a directory, without opening it."""
    path = root / _WEIGHTS
    return blake3.blake3(path.read_bytes()).hexdigest() if path.exists() else ""


def create_run(
    root: str | Path, config: TrainConfig, facts: DataFacts, preset: str | None = None, overwrite: bool = False,
    argv: Sequence[str] = (),
) -> Run:  # fmt: skip
    """Makes the directory of a new run; raises OutputError where it holds something already, or cannot be written."""
    root, config = Path(root), config.resolved()
    check_free(root, overwrite)
    run = Run(root, config, facts, preset, describe_making(["cxr", "train", *argv] if argv else sys.argv))
    try:
        with locked(root):
            for path in sorted(root.iterdir()):
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != _LOCK:
                    path.unlink()
            run.last_checkpoint.parent.mkdir(parents=True)
        fields = {"preset": preset, "config": config.to_json(), "data": facts.to_json(), "made": run.made}
        write_json(root / RUN_NAME, {"format": FORMAT, "state": "running", **fields})
    except OSError as error:
        raise OutputError(f"the run {root} cannot be written: {error.strerror or error}") from error
    return run


def describe_making(command: Sequence[str]) -> dict[str, Any]:
    """When, by which command and on what something is made; for people who want to make it again."""
    return {
        "command": list(command), "started": _now(), "git_commit": _git_commit(), "versions": _versions(),
        "python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}",
    }  # fmt: skip


def open_run(root: str | Path) -> Run:
    """Opens the directory of a run; raises DatasetError where it is not one that this version can read."""
    root = Path(root)
    fields = _read_json(root)
    try:
        config, facts = TrainConfig.from_json(fields["config"]), DataFacts.from_json(fields["data"])
    except (KeyError, TypeError, InputError) as error:
        fault = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DatasetError(f"{root / RUN_NAME} is damaged, or of another version: {fault}") from error
    return Run(root, config, facts, fields.get("preset"), fields.get("made", {}))


def find_runs(folder: str | Path) -> Iterator[Path]:
    """Directories of runs at or below a folder, in order."""
    return (path.parent for path in sorted(Path(folder).rglob(RUN_NAME)))


_LOCK = ".lock"
_held: set[Path] = set()


@contextlib.contextmanager
def locked(root: Path, refusal: str = "") -> Iterator[None]:
    """Holds the directory of a run, which is made, for this process; the lock goes with the process, however it ends.

    Inside, it may be asked for again. `refusal` is what to say where another process has it, if it is no run.

    Raises:
      BusyError: another process has it.
      OutputError: it cannot be written.
    """
    held = root.resolve()
    if held in _held:
        yield
        return
    refusal = refusal or f"another process is training {root}; wait for it, or choose another --run"
    with lock_file(root / _LOCK, refusal):
        remove_temporary(root / "checkpoints")
        _held.add(held)
        try:
            yield
        finally:
            _held.discard(held)


def check_free(root: Path, overwrite: bool = False) -> None:
    """Raises OutputError unless a new run may be made there: nothing is, or a run that may be lost."""
    if root.exists() and not root.is_dir():
        raise OutputError(f"{root} is a file; --run names the directory of the run")
    content = sorted(path.name for path in root.iterdir() if path.name != _LOCK) if root.is_dir() else []
    if not content:
        return
    if not (root / RUN_NAME).exists():
        raise OutputError(f"{root} holds something that is no run ({content[0]}, ...); choose another --run")
    if not overwrite:
        state = _read_json(root)["state"]
        hint = "--resume resumes it" if state != "finished" else "it is finished"
        raise OutputError(f"{root} holds a run already; {hint}. Choose another --run, or --overwrite to replace it")


def _read_json(root: Path) -> dict[str, Any]:
    missing = f"{root} is not a run: it has no {RUN_NAME}. `cxr train --run {root}` makes one"
    fields = read_json(root / RUN_NAME, missing)
    if fields.get("format") != FORMAT:
        raise DatasetError(f"{root / RUN_NAME}: expected a run of format {FORMAT}")
    return fields


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found.setdefault(name.removesuffix("-cpu"), version(name))
    return {**found, "keras_backend": os.environ.get("KERAS_BACKEND", "tensorflow")}


def _git_commit() -> str | None:
    """The commit of this code, with `+changes` where files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None

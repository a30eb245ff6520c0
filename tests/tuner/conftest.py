"""A small data set, and searches in processes of their own, as people start them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from beam_jobs.job import preprocess
from beam_jobs.preprocess_config import PreprocessConfig
from tuner.results import SearchResult, read_search

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 900.0
"""Seconds to wait for another process: a machine may be shared by many."""
QUICK = {
    "space": "compact",
    "fix": {
        "model": "mlp", "image_size": 32, "batch_size": 8, "augment": "none", "equalize": False, "normalize": "dataset",
        "schedule": "constant", "class_weights": "none", "label_smoothing": 0.0, "ema": 0.0, "activation": "relu",
    },
}  # fmt: skip
"""A space of models that train in a second; the optimizer and its rate are what is left of it, and the dense layers."""


@pytest.fixture(scope="session")
def data(phantoms, tmp_path_factory) -> Path:
    """About 110 phantoms of two classes in train, val and test."""
    output = tmp_path_factory.mktemp("tuner") / "data"
    config = PreprocessConfig(input=str(phantoms), output=str(output), sizes=(32,), val_fraction=0.3)
    preprocess(config, ["--direct_num_workers=1", "--direct_running_mode=in_memory"], True)
    return output


@pytest.fixture
def quick(tmp_path) -> Path:
    """A space file of quick models."""
    path = tmp_path / "space.json"
    path.write_text(json.dumps(QUICK))
    return path


class Tuning:
    """`cxr tune` in a process of its own.

    Args:
      project: of the search.
      arguments: all of the command line but the project.
    """

    def __init__(self, project: Path, *arguments: Any):
        self.project = project
        self.output = project.with_suffix(".out")
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tuner.tune", "--project", str(project), *map(str, arguments)],
                cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def found(self) -> SearchResult | None:
        """The search as its files have it; None where there is none yet."""
        with contextlib.suppress(Exception):
            return read_search(self.project)
        return None

    def until(self, condition: Callable[[SearchResult], Any], what: str, seconds: float = PATIENCE) -> Any:
        """Waits for something to be true of the search, and returns it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            search = self.found()
            if search is not None and (value := condition(search)):
                return value
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"{what} did not come to pass; exit status {self.process.poll()}\n{self.said()}")

    def workers(self) -> dict[str, int]:
        """Process ids of the workers of this project, by name; those of them that have started."""
        found = [(pid, line) for pid, line in processes_naming(str(self.project)) if "tuner.cluster.worker" in line]
        return {json.loads(line[-1])["name"]: pid for pid, line in found}

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit status, once it has ended."""
        return self.process.wait(seconds)

    def said(self) -> str:
        """All that was printed, by the workers too."""
        logs = sorted(self.project.glob("logs/*.log"))
        return "\n".join(path.read_text(errors="replace")[-5000:] for path in [self.output, *logs])

    def kill(self) -> None:
        """Ends it and its workers at once."""
        pids = [self.process.pid, *self.workers().values()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def processes_naming(text: str) -> list[tuple[int, list[str]]]:
    """Processes whose command line has a text in it, with their arguments."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_bytes().decode(errors="replace")
                if text in line and int(folder.name) != os.getpid():
                    found.append((int(folder.name), line.rstrip("\0").split("\0")))
    return found


def none_left(text: str, seconds: float = PATIENCE) -> bool:
    """Whether all processes whose command line has a text in it are gone, or go soon."""
    end = time.monotonic() + seconds
    while processes_naming(text) and time.monotonic() < end:
        time.sleep(0.1)
    return not processes_naming(text)


@pytest.fixture
def tune(tmp_path, data, quick) -> Iterator[Callable[..., Tuning]]:
    """`tune(*arguments, project="search")`: starts a search of quick models on the small data set."""
    started: list[Tuning] = []

    def start(*arguments: Any, project: str = "search") -> Tuning:
        fresh = [] if "--resume" in arguments else ["--data", data, "--space", quick]
        started.append(Tuning(tmp_path / project, *fresh, *arguments))
        return started[-1]

    yield start
    for tuning in started:
        tuning.kill()

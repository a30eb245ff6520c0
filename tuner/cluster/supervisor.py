"""The workers of this host: starts them, each with its share of cores and GPUs, and replaces those that end."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cxr.console import EXIT_OK
from cxr.errors import OutputError, TrainingError
from tuner.cluster.host import find_gpus, share_cores
from tuner.cluster.processes import GRACE_SECONDS, describe_status, end_processes, last_lines
from tuner.cluster.worker_options import EXIT_RECYCLED, TRIAL, WorkerOptions

MAX_BARREN = 3
"""Processes of a worker that may end in a row without a trial."""
START_SECONDS = 120.0
"""Silence that a new worker is allowed: TensorFlow takes long to load."""


@dataclasses.dataclass
class Child:
    """A worker: its process, and those before it.

    Attributes:
      options: of the worker.
      gpu: the only GPU that it sees; None for no restriction.
      log: file of its output.
      process: the process; None between two.
      pipe: read end of its heartbeats.
      heard, spoke: time of the last heartbeat, by the monotonic clock, and whether there was one.
      barren: processes that ended in a row without a trial.
      restart: when to start the next, by the monotonic clock.
      done: whether the search is over for it.
    """

    options: WorkerOptions
    gpu: str | None
    log: Path
    process: subprocess.Popen[bytes] | None = None
    pipe: int = -1
    heard: float = 0.0
    spoke: bool = False
    barren: int = 0
    restart: float = 0.0
    done: bool = False


class Supervisor:
    """Keeps a number of workers running.

    Args:
      names: of the workers.
      options: common to all; name, cores and pipe of each are filled in.
      lease_seconds: silence after which one is killed and replaced.
      notify: called with a line for people at each event.
    """

    def __init__(
        self, names: Sequence[str], options: WorkerOptions, lease_seconds: float, notify: Callable[[str], None]
    ):
        self._lease_seconds, self._notify = lease_seconds, notify
        logs = Path(options.project, "logs")
        logs.mkdir(parents=True, exist_ok=True)
        gpus = itertools.cycle(find_gpus() or [None])
        self.children: list[Child] = []
        for name, cores, gpu in zip(names, share_cores(len(names)), gpus, strict=False):
            own = dataclasses.replace(
                options, name=name, cores=cores, answer_seconds=min(5.0, lease_seconds / 4),
                stream={"threads": max(1, len(cores)), **options.stream},
            )  # fmt: skip
            self.children.append(Child(own, gpu, logs / f"{name}.log"))
        self._closing = False

    @property
    def alive(self) -> bool:
        """Whether a worker runs, or will be started."""
        return any(child.process is not None or not (child.done or self._closing) for child in self.children)

    def look_after(self) -> None:
        """Starts and replaces workers; to be called a few times a second.

        Raises:
          TrainingError: a worker ended too often without a trial.
        """
        now = time.monotonic()
        for child in self.children:
            if child.process is None:
                if not (child.done or self._closing) and now >= child.restart:
                    self._start(child)
                continue
            self._listen(child, now)
            status = child.process.poll()
            limit = self._lease_seconds if child.spoke else max(START_SECONDS, self._lease_seconds)
            if status is None and now - child.heard > limit:
                child.process.kill()
                child.process.wait()
                self._ended(child, f"it was silent for {now - child.heard:.0f} s, and was killed")
            elif status is not None:
                self._ended(child, describe_status(status), status)

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Asks all workers to stop, and kills those that have not after `grace` seconds."""
        self._closing = True
        end_processes([child.process for child in self.children if child.process is not None], grace)
        for child in self.children:
            self._bury(child)

    def _start(self, child: Child) -> None:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        options = dataclasses.replace(child.options, pipe=writing, parent=os.getpid())
        environment = dict(os.environ)
        if child.gpu:
            environment["CUDA_VISIBLE_DEVICES"] = child.gpu
        try:
            with open(child.log, "ab") as log:
                child.process = subprocess.Popen(
                    [sys.executable, "-m", "tuner.cluster.worker", json.dumps(dataclasses.asdict(options))],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, pass_fds=(writing,),
                    start_new_session=True,  # Ctrl-C is for the supervisor, which then stops each worker
                    env=environment,
                )  # fmt: skip
        except OSError as error:
            os.close(reading)
            raise OutputError(f"the worker {options.name} cannot be started: {error.strerror or error}") from error
        finally:
            os.close(writing)
        child.pipe, child.heard, child.spoke = reading, time.monotonic(), False

    def _listen(self, child: Child, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            signs = os.read(child.pipe, 65536)
            if signs:
                child.heard, child.spoke = now, True
            if TRIAL in signs:
                child.barren = 0

    def _ended(self, child: Child, how: str, status: int | None = None) -> None:
        self._listen(child, time.monotonic())
        self._bury(child)
        name = child.options.name
        child.options = dataclasses.replace(child.options, ended=how)
        child.done = status == EXIT_OK
        if self._closing or status in (EXIT_OK, EXIT_RECYCLED):
            return
        child.barren += 1
        child.restart = time.monotonic() + min(30.0, 0.5 * 2**child.barren)
        if child.barren > MAX_BARREN:
            raise TrainingError(
                f"{name} ended {child.barren} times without a trial; the last time {how}. "
                f"Its log, {child.log}, ends with:\n{last_lines(child.log)}"
            )
        self._notify(f"{name} ended: {how}; another takes its place")

    def _bury(self, child: Child) -> None:
        if child.pipe >= 0:
            os.close(child.pipe)
        child.process, child.pipe = None, -1


def worker_names(count: int, prefix: str = "worker-") -> list[str]:
    """Names for the workers of this host."""
    return [f"{prefix}{number}" for number in range(count)]

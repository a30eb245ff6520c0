"""The workers of this host: starts them, each with its share of it, and another for each that ends."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from cxr.console import EXIT_OK
from cxr.errors import OutputError, TrainingError
from cxr.machine import usable_cores
from tuner.cluster.worker import EXIT_HUNG, EXIT_RECYCLED, WorkerOptions

GRACE_SECONDS = 15.0
"""For which workers that are asked to stop may save what they have."""
MAX_BARREN = 3
"""Processes of a worker that may end one after the other without having taken a trial."""
START_SECONDS = 120.0
"""For which a worker that has only just been started may be silent: TensorFlow takes its time to load."""


@dataclasses.dataclass
class Child:
    """A worker's process.

    Attributes:
      options: that it was started with.
      gpu: that it sees; None for all, or none.
      process: the process; None between two.
      pipe: its signs of life, to read.
      log: what it prints.
      heard: when it last gave a sign, by the monotonic clock.
      spoke: whether it has given one.
      barren: processes that ended one after the other without a trial.
      restart: when to start the next, by the monotonic clock.
      done: the search is over for it.
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
    """Keeps a number of workers at work.

    Args:
      names: of the workers.
      options: of all of them; each is given its name, cores and pipe.
      lease_seconds: silence after which one is killed and replaced.
      notify: called with a line for people at each event.
    """

    def __init__(
        self, names: Sequence[str], options: WorkerOptions, lease_seconds: float, notify: Callable[[str], None]
    ):
        self._lease_seconds, self._notify = lease_seconds, notify
        logs = Path(options.project, "logs")
        logs.mkdir(parents=True, exist_ok=True)
        shares, gpus = share_cores(len(names)), find_gpus()
        self.children = [
            Child(
                dataclasses.replace(
                    options,
                    name=name,
                    cores=cores,
                    answer_seconds=min(5.0, lease_seconds / 4),
                    stream={"threads": max(1, len(cores)), **options.stream},
                ),
                gpus[number % len(gpus)] if gpus else None,
                logs / f"{name}.log",
            )
            for number, (name, cores) in enumerate(zip(names, shares, strict=True))
        ]
        self._closing = False

    @property
    def alive(self) -> bool:
        """Whether a worker runs, or is about to."""
        return any(child.process is not None or not (child.done or self._closing) for child in self.children)

    def look_after(self) -> None:
        """Starts, replaces and buries workers; to be called a few times a second.

        Raises:
          TrainingError: a worker cannot be got to work.
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
        running = [child.process for child in self.children if child.process is not None]
        for process in running:
            _ask_to_stop(process)
        end = time.monotonic() + grace
        for process in running:
            _wait_or_kill(process, end - time.monotonic())
        for child in self.children:
            self._bury(child)

    def _start(self, child: Child) -> None:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        options = dataclasses.replace(child.options, pipe=writing, parent=os.getpid())
        environment = dict(os.environ)
        if child.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = child.gpu
        try:
            with open(child.log, "ab") as log:
                child.process = subprocess.Popen(
                    [sys.executable, "-m", "tuner.cluster.worker", json.dumps(dataclasses.asdict(options))],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, pass_fds=(writing,),
                    start_new_session=True,  # Ctrl-C is for the supervisor, which then asks each worker
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
            if b"t" in signs:
                child.barren = 0

    def _ended(self, child: Child, how: str, status: int | None = None) -> None:
        self._listen(child, time.monotonic())
        self._bury(child)
        name = child.options.name
        child.options = dataclasses.replace(child.options, ended=how)
        if status == EXIT_OK:
            child.done = True
        if self._closing or child.done or status == EXIT_RECYCLED:
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


def end_process(process: subprocess.Popen[bytes], grace: float = GRACE_SECONDS) -> None:
    """Asks a process to stop, and kills it if it has not after `grace` seconds."""
    if process.poll() is None:
        _ask_to_stop(process)
    _wait_or_kill(process, grace)


def _wait_or_kill(process: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, seconds))
    if process.poll() is None:
        process.kill()
        process.wait()


def _ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)  # one that was halted would not hear the other


def share_cores(workers: int) -> list[tuple[int, ...]]:
    """Which cores each worker may use: all of this process's, dealt out evenly; shared where there are too few.

    Empty tuples where the system cannot keep a process to some cores.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [()] * workers
    cores = sorted(os.sched_getaffinity(0))
    if not workers or workers >= len(cores):
        return [(cores[worker % len(cores)],) for worker in range(workers)]
    edges = [round(worker * len(cores) / workers) for worker in range(workers + 1)]
    return [tuple(cores[low:high]) for low, high in itertools.pairwise(edges)]


def find_gpus() -> list[str]:
    """Names of the NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them; found without CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU")]


def describe_status(status: int) -> str:
    """What an exit status means."""
    if status == EXIT_HUNG:
        return "it made no progress"
    if status < 0:
        known = {int(each): each.name for each in signal.Signals}
        name = known.get(-status, f"signal {-status}")
        return f"it was killed by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")
    return f"it ended with exit status {status}"


def last_lines(path: Path, count: int = 8) -> str:
    """The end of a log."""
    try:
        with open(path, "rb") as file:
            return _tail(file, count)
    except OSError:
        return ""


def _tail(file: BinaryIO, count: int) -> str:
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - 8192))
    lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-count:])


def worker_names(count: int, prefix: str = "worker-") -> list[str]:
    """Names for the workers of this host."""
    return [f"{prefix}{number}" for number in range(count)]


def check_workers(count: int) -> list[str]:
    """What to say about so many workers on this host before they start."""
    notes: list[str] = []
    cores, gpus = usable_cores(), find_gpus()
    if gpus and count > len(gpus):
        notes.append(f"{count} workers share {len(gpus)} GPUs, and their memory")
    elif not gpus and count > cores:
        notes.append(f"{count} workers share {cores} cores")
    return notes

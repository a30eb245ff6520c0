"""`python -m tuner.cluster.worker`: a process that asks the chief for trials and trains them, one after another.

A supervisor starts it, and starts another when it ends. Each trial is a training run as `cxr train` makes it, below
PROJECT/runs; one that was begun by a worker that died is gone on with from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cxr.console import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from cxr.errors import CxrError, DatasetError, InputError, OutputError, TrainingError
from cxr.machine import load_tensorflow_quietly
from tfrecords.dataset import XrayDataset, open_dataset
from trainer.training.stopping import Stopped, StopRequest, stop_on_signals
from tuner.cluster.protocol import VERSION, ChiefClient, ChiefLost

EXIT_RECYCLED = 75
"""Exit status of a worker that has run as many trials as one process may."""
EXIT_HUNG = 76
"""Exit status of a worker that noticed that it made no progress."""
_LAST_WORDS_SECONDS = 20.0
_START_SECONDS = 900.0
"""For which a worker without a trial may make no progress."""


@dataclasses.dataclass(frozen=True)
class WorkerOptions:
    """What a supervisor tells a worker, as JSON in its only argument.

    Attributes:
      chief: HOST:PORT.
      name: of the worker; one that is started anew keeps it.
      data: directory of the data set on this host.
      project: directory whose `runs` hold the trials.
      cores: that it may use; empty for all.
      trials: that the process runs before it ends, so that what they leave in memory goes with it.
      patience: seconds for which a chief that does not answer is waited for.
      answer_seconds: for which a sign of life waits for its answer; the supervisor hears nothing meanwhile.
      pipe: file descriptor that gets `.` at each sign of life and `t` at each trial; -1 for none.
      parent: process that it ends with; 0 for none.
      ended: how the worker's process before this one ended.
      stream: options of the stream that change its speed only.
    """

    chief: str
    name: str
    data: str
    project: str
    cores: tuple[int, ...] = ()
    trials: int = 8
    patience: float = 600.0
    answer_seconds: float = 5.0
    pipe: int = -1
    parent: int = 0
    ended: str = ""
    stream: dict[str, Any] = dataclasses.field(default_factory=dict)


class Progress:
    """How far the trial at hand is. Written by the training thread, read by the pulse."""

    def __init__(self) -> None:
        self.trial: str | None = None
        self.epoch, self.fraction, self.doing = 0, 0.0, "starting"
        self.moved = time.monotonic()
        self.stop = StopRequest()
        self.reason, self.asked_by = "", ""

    def begin(self, trial: str) -> None:
        """Starts on a trial."""
        self.trial, self.epoch, self.fraction, self.stop = trial, 0, 0.0, StopRequest()
        self.reason = self.asked_by = ""
        self.move("starting")

    def move(self, doing: str, epoch: int | None = None, fraction: float = 0.0) -> None:
        """Notes that something was done."""
        self.doing, self.moved, self.fraction = doing, time.monotonic(), fraction
        if epoch is not None:
            self.epoch = epoch

    def leave(self, asked_by: str, reason: str) -> None:
        """Asks training to stop; the first who asks says why."""
        if not self.asked_by:
            self.asked_by, self.reason = asked_by, reason
        self.stop.request()


class Pulse(threading.Thread):
    """Tells supervisor and chief that the worker lives, and ends the process where it does not.

    The process ends when training made no progress for too long, and when the process that started it has gone; in
    a thread of its own, so that it can do so while training does not answer.
    """

    def __init__(self, worker: Worker):
        super().__init__(name="pulse", daemon=True)
        self._worker = worker
        self.beat_seconds, self.hang_seconds = 1.0, _START_SECONDS  # until the chief has said
        self._client = ChiefClient(worker.options.chief, 0.0, answer_seconds=worker.options.answer_seconds)
        self._answered = time.monotonic()
        self._over = threading.Event()

    def stop(self) -> None:
        """Lets it end."""
        self._over.set()
        self.join()
        self._client.close()

    def run(self) -> None:
        """Beats until it is stopped."""
        worker, options = self._worker, self._worker.options
        while not self._over.is_set():
            progress = worker.progress
            signal_parent(options.pipe, b".")
            if options.parent and os.getppid() != options.parent:
                self._end("the process that started it has gone", EXIT_FAILED)
            limit = self.hang_seconds if progress.trial is not None else max(self.hang_seconds, _START_SECONDS)
            if time.monotonic() - progress.moved > limit:
                reason = f"no progress for {limit:.0f} s while {progress.doing} after epoch {progress.epoch}"
                print(f"{options.name}: {reason}", file=sys.stderr, flush=True)
                with contextlib.suppress(CxrError):
                    self._client.ask("end", **worker.lease(), outcome="lost", message=reason)
                os._exit(EXIT_HUNG)
            self._tell_chief(progress)
            self._over.wait(self.beat_seconds)

    def _tell_chief(self, progress: Progress) -> None:
        trial = progress.trial
        if trial is None:
            self._answered = time.monotonic()
            return
        try:
            answer = self._client.ask(
                "report", **self._worker.lease(), epoch=progress.epoch, fraction=progress.fraction, doing=progress.doing
            )
        except CxrError:
            if time.monotonic() - self._answered > self._worker.options.patience:
                self._end(f"no chief for {self._worker.options.patience:.0f} s", EXIT_FAILED)
            return
        self._answered = time.monotonic()
        if answer["do"] == "leave" and progress.trial == trial:
            progress.leave("chief", answer["reason"])

    def _end(self, reason: str, status: int) -> None:
        """Lets training save what it can, then ends the process whether it has or not."""
        print(f"{self._worker.options.name}: {reason}", file=sys.stderr, flush=True)
        self._worker.quit.request()
        self._worker.progress.leave("parent", reason)
        time.sleep(_LAST_WORDS_SECONDS)
        os._exit(status)


class Worker:
    """Asks for trials and trains them.

    Args:
      options: what the supervisor said.
      quit: requested by a signal.
    """

    def __init__(self, options: WorkerOptions, quit: StopRequest):
        self.options, self.quit = options, quit
        self.process = uuid.uuid4().hex
        self.progress = Progress()
        self.client = ChiefClient(options.chief, options.patience, self._gives_up)

    def lease(self) -> dict[str, Any]:
        """Who has which trial."""
        return {"worker": self.options.name, "process": self.process, "trial": self.progress.trial}

    def _gives_up(self) -> bool:
        self.progress.move(
            self.progress.doing, self.progress.epoch, self.progress.fraction
        )  # it waits, and does not hang
        return bool(self.quit)

    def work(self) -> int:
        """Runs trials until there are no more, or as many as one process may; returns the exit status."""
        options = self.options
        data = open_dataset(options.data)
        pulse = Pulse(self)
        pulse.start()
        try:
            search = self.client.ask("join", worker=options.name, version=VERSION, digest=data.manifest.digest)
            pulse.beat_seconds, pulse.hang_seconds = search["beat_seconds"], search["hang_seconds"]
            load_tensorflow_quietly()
            import tuner.cluster.trial  # noqa: F401 - before the first trial, whose time is measured

            for _ in range(options.trials):
                task = self._next()
                if task is None:
                    return EXIT_INTERRUPTED if self.quit else EXIT_OK
                self._run(task, data, search)
                if self.quit:
                    return EXIT_INTERRUPTED
            return EXIT_RECYCLED
        finally:
            pulse.stop()
            self.client.close()

    def _next(self) -> dict[str, Any] | None:
        """The next trial; None where there is none any more."""
        ended = self.options.ended
        while not self.quit:
            task = self.client.ask("next", worker=self.options.name, process=self.process, ended=ended)
            if task["do"] == "run":
                signal_parent(self.options.pipe, b"t")
                return task
            if task["do"] == "stop":
                return None
            self.progress.move("waiting")
            time.sleep(task["seconds"])
        return None

    def _run(self, task: dict[str, Any], data: XrayDataset, search: dict[str, Any]) -> None:
        """Trains a trial, and tells the chief what came of it, whatever did."""
        from tuner.cluster.trial import run_trial

        self.progress.begin(task["trial"])
        if self.quit:
            self.progress.leave("signal", "")
        print(f"{_now()} trial {task['trial']}: {json.dumps(task['config'])}", flush=True)
        begun = time.monotonic()
        root = Path(self.options.project, "runs", task["trial"])
        outcome: dict[str, Any]
        try:
            with self._passing_on_quit():
                outcome = run_trial(root, task, data, search, self)
        except Stopped:
            outcome = {"outcome": "released"}
        except (TrainingError, InputError) as error:
            outcome = {"outcome": "failed", "message": str(error)}
        except Exception as error:
            traceback.print_exc()
            outcome = describe_error(error)
        self.progress.move("done")
        outcome["seconds"] = time.monotonic() - begun
        print(f"{_now()} trial {task['trial']}: {outcome['outcome']} {outcome.get('message', '')}", flush=True)
        lease, self.progress.trial = self.lease(), None
        self.client.ask("end", **lease, **outcome)
        if outcome["outcome"] == "released" and not self.quit:
            time.sleep(1.0)  # another process may still have it
        if outcome["outcome"] in ("completed", "pruned", "failed"):  # nobody goes on from there
            with contextlib.suppress(OSError):
                (root / "checkpoints" / "last.npz").unlink(missing_ok=True)

    @contextlib.contextmanager
    def _passing_on_quit(self) -> Iterator[None]:
        """Inside, a request to quit is one to stop training."""
        progress, over = self.progress, threading.Event()

        def watch() -> None:
            while not over.wait(0.1):
                if self.quit:
                    progress.leave("signal", "")
                    return

        watcher = threading.Thread(target=watch, name="quit", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


def describe_error(error: Exception) -> dict[str, Any]:
    """What to tell the chief of a trial that ended with an error that is not about its configuration."""
    message = f"{type(error).__name__}: {error}" if not isinstance(error, CxrError) else str(error)
    message = message if len(message) < 2000 else message[:1000] + " ... " + message[-900:]
    chain: BaseException | None = error
    while chain is not None:
        full = isinstance(chain, OSError) and chain.errno in (28, 30, 122)  # ENOSPC, EROFS, EDQUOT
        if full or "No space left on device" in str(chain):
            return {"outcome": "lost", "message": message, "fatal": True}
        chain = chain.__cause__ or chain.__context__
    if isinstance(error, (OSError, OutputError, DatasetError)):
        return {"outcome": "lost", "message": message}
    return {"outcome": "failed", "message": message}


def signal_parent(pipe: int, sign: bytes) -> None:
    """Writes to the supervisor's pipe, if there is one; a full pipe or a closed one is no matter."""
    if pipe >= 0:
        with contextlib.suppress(OSError):
            os.write(pipe, sign)


def limit_cores(cores: tuple[int, ...]) -> None:
    """Keeps the process, and every library that asks how many threads to start, to some cores."""
    if not cores:
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(len(cores))


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def main() -> int:
    """Runs a worker with the options that are its argument; returns its exit status."""
    fields = json.loads(sys.argv[1])
    options = WorkerOptions(**{**fields, "cores": tuple(fields["cores"])})
    limit_cores(options.cores)
    with stop_on_signals() as quit:
        try:
            return Worker(options, quit).work()
        except ChiefLost as error:
            print(f"{options.name}: {error}", file=sys.stderr)
            return EXIT_INTERRUPTED if quit else EXIT_FAILED
        except CxrError as error:
            print(f"error: {options.name}: {error}", file=sys.stderr)
            return EXIT_FAILED


if __name__ == "__main__":
    raise SystemExit(main())

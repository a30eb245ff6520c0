"""The heartbeat of a worker: a thread that reports its progress, and ends the process where there is none."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import Any

from cxr.console import EXIT_FAILED
from cxr.errors import CxrError
from trainer.training.stopping import StopRequest
from tuner.cluster.protocol import ChiefClient
from tuner.cluster.worker_options import EXIT_HUNG, HEARTBEAT, WorkerOptions

_LAST_WORDS_SECONDS = 20.0
_START_SECONDS = 900.0
"""For which a worker without a trial may make no progress."""


class TrialStop(StopRequest):
    """A request to stop a trial, or to end the process that trains it."""

    def __init__(self, quit: StopRequest):
        super().__init__()
        self._quit = quit

    def __bool__(self) -> bool:
        return super().__bool__() or bool(self._quit)


class Progress:
    """How far the trial is that the chief has leased to this worker and process.

    Written by the training thread, read by the pulse. `quit` is requested when the process must end.
    """

    def __init__(self, worker: str, process: str, quit: StopRequest):
        self._holder, self._quit = {"worker": worker, "process": process}, quit
        self.trial: str | None = None
        self.epoch, self.fraction, self.doing = 0, 0.0, "starting"
        self.moved = time.monotonic()
        self.stop = TrialStop(quit)
        self.reason, self.asked_by = "", ""

    @property
    def lease(self) -> dict[str, Any]:
        """Who has which trial, as the chief's questions name it."""
        return {**self._holder, "trial": self.trial}

    def begin(self, trial: str) -> None:
        """Starts on a trial."""
        self.trial, self.epoch, self.fraction, self.stop = trial, 0, 0.0, TrialStop(self._quit)
        self.reason = self.asked_by = ""
        self.move("starting")

    def move(self, doing: str, epoch: int | None = None, fraction: float = 0.0) -> None:
        """Notes that something was done."""
        self.doing, self.moved, self.fraction = doing, time.monotonic(), fraction
        if epoch is not None:
            self.epoch = epoch

    def touch(self) -> None:
        """Notes that the worker waits, and does not hang."""
        self.moved = time.monotonic()

    def leave(self, asked_by: str, reason: str) -> None:
        """Asks training to stop; the first reason counts."""
        if not self.asked_by:
            self.asked_by, self.reason = asked_by, reason
        self.stop.request()


class Pulse(threading.Thread):
    """Tells supervisor and chief that the worker is alive.

    Ends the process when training made no progress for too long, and when the process that started it is gone;
    requests `quit` before, so that training can save what it has.
    """

    def __init__(self, options: WorkerOptions, progress: Progress, quit: StopRequest):
        super().__init__(name="pulse", daemon=True)
        self._options, self._progress, self._quit = options, progress, quit
        self.beat_seconds, self.hang_seconds = 1.0, _START_SECONDS  # until the chief has said
        self._client = ChiefClient(options.chief, 0.0, answer_seconds=options.answer_seconds)
        self._answered = time.monotonic()
        self._over = threading.Event()

    def stop(self) -> None:
        """Ends the thread."""
        self._over.set()
        self.join()
        self._client.close()

    def run(self) -> None:
        """Beats until it is stopped."""
        while not self._over.is_set():
            self._options.signal_parent(HEARTBEAT)
            if self._options.parent and os.getppid() != self._options.parent:
                self._end("the process that started it is gone")
            self._check_progress()
            self._tell_chief()
            self._over.wait(self.beat_seconds)

    def _check_progress(self) -> None:
        progress = self._progress
        limit = self.hang_seconds if progress.trial is not None else max(self.hang_seconds, _START_SECONDS)
        if time.monotonic() - progress.moved > limit:
            reason = f"no progress for {limit:.0f} s while {progress.doing} after epoch {progress.epoch}"
            print(f"{self._options.name}: {reason}", file=sys.stderr, flush=True)
            with contextlib.suppress(CxrError):
                self._client.ask("end", **progress.lease, outcome="lost", message=reason)
            os._exit(EXIT_HUNG)

    def _tell_chief(self) -> None:
        progress, patience = self._progress, self._options.patience
        trial = progress.trial
        if trial is None:
            self._answered = time.monotonic()
            return
        done = {"epoch": progress.epoch, "fraction": progress.fraction, "doing": progress.doing}
        try:
            answer = self._client.ask("report", **progress.lease, **done)
        except CxrError:
            if time.monotonic() - self._answered > patience:
                self._end(f"no chief for {patience:.0f} s")
            return
        self._answered = time.monotonic()
        if answer["do"] == "leave" and progress.trial == trial:
            progress.leave("chief", answer["reason"])

    def _end(self, reason: str) -> None:
        """Lets training save what it can, then ends the process in any case."""
        print(f"{self._options.name}: {reason}", file=sys.stderr, flush=True)
        self._quit.request()
        self._progress.leave("parent", reason)
        time.sleep(_LAST_WORDS_SECONDS)
        os._exit(EXIT_FAILED)

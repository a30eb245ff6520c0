"""A search while it runs: a live table in a terminal, elsewhere a line for each event."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cxr.console import format_seconds
from tuner.trial_result import TrialResult, score_text

if TYPE_CHECKING:
    from tuner.cluster.chief import Chief, Lease

_BEST = 5
_EVENTS = 4
_MOST_SHOWN = ("model", "preset", "image_size", "augment", "optimizer", "learning_rate", "batch_size")


class LiveTable:
    """Shows a search while it runs, unless quiet, on standard error or another console. A context manager."""

    def __init__(self, quiet: bool = False, console: Console | None = None):
        self._console = console or Console(stderr=True)
        self._events: deque[str] = deque(maxlen=_EVENTS)
        self._quiet = quiet
        shown = self._console.is_terminal and not quiet
        self._live = Live(console=self._console, refresh_per_second=4, transient=False) if shown else None
        self._begun = time.monotonic()
        self._shown = 0.0

    def __enter__(self) -> LiveTable:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Shows an event."""
        event = f"{time.strftime('%H:%M:%S')} {text}"
        self._events.append(event)
        if not self._quiet and not self._live:
            with contextlib.suppress(OSError):  # nobody reads it any more; the search continues
                print(event, file=sys.stderr, flush=True)

    def show(self, chief: Chief) -> None:
        """Redraws the table, at most twice a second."""
        now = time.monotonic()
        if self._live and now - self._shown > 0.5:
            self._shown = now
            self._live.update(self.draw(chief))

    def draw(self, chief: Chief) -> Group:
        """The table as a renderable of rich."""
        table = Table("trial", "status", box=None, pad_edge=False, header_style="bold")
        for title in (chief.config.objective, "epoch", "images/s", "left"):
            table.add_column(title, justify="right")
        table.add_column("what it is", overflow="fold")
        for worker, lease in sorted(chief.leased().items()):
            table.add_row(*self._running(chief, worker, lease))
        for trial in chief.best(_BEST):
            epochs, speed = f"{len(trial.history)}/{trial.epochs}", _whole(trial.images_per_second)
            table.add_row(trial.id, trial.status, score_text(trial.score), epochs, speed, "", describe_values(trial))
        events = [Text(event, style="dim") for event in tuple(self._events)]
        return Group(Text(self._headline(chief), style="bold"), table, *events)

    def _running(self, chief: Chief, worker: str, lease: Lease) -> list[str]:
        trial, goal = chief.records[lease.trial], chief.config.goal
        values = trial.series(goal.monitor) if goal.shift_metric is None else []
        best = max(values, default=None) if goal.direction == "max" else min(values, default=None)
        passed, done = time.monotonic() - lease.begun, lease.epoch + lease.fraction
        left = format_seconds(passed / done * (trial.epochs - done)) if done > 0.2 else ""
        return [
            trial.id, f"{lease.doing} on {worker}", score_text(best), f"{done:.1f}/{trial.epochs}",
            _whole(lease.images_per_second), left, describe_values(trial),
        ]  # fmt: skip

    def _headline(self, chief: Chief) -> str:
        count, planned = chief.count(), chief.planned_trials
        done = count["completed"] + count["failed"]
        parts = [f"{done}" + (f" of {planned}" if planned else "") + " trials done", f"{count['running']} running"]
        parts += [f"{count[status]} {status}" for status in ("waiting", "failed") if count[status]]
        left = self._seconds_left(chief, max(1, count["running"]))
        passed = format_seconds(time.monotonic() - self._begun)
        parts.append(f"{passed} so far" + (f", about {format_seconds(left)} left" if left is not None else ""))
        return ", ".join(parts)

    def _seconds_left(self, chief: Chief, workers: int) -> float | None:
        """From the mean time that an epoch took, and the planned epochs that are left."""
        begun = [trial for trial in list(chief.records.values()) if trial.history]
        ended = [trial for trial in begun if trial.ended]
        trained, seconds = sum(len(trial.history) for trial in ended), sum(trial.seconds for trial in ended)
        if chief.planned_epochs is None or not trained:
            return None
        done = sum(trial.epochs if trial.ended else len(trial.history) for trial in begun)
        return max(0.0, chief.planned_epochs - done) * seconds / trained / workers


def describe_values(trial: TrialResult) -> str:
    """The hyperparameters that say most, short."""
    return " ".join(trial.shown(name) for name in _MOST_SHOWN if name in trial.values)


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"

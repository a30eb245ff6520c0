"""The search as it goes: one live table in a terminal, a line an event elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cxr.console import format_seconds

if TYPE_CHECKING:
    from tuner.cluster.chief import Chief

_BEST = 5
_EVENTS = 4
_MOST_SHOWN = ("model", "preset", "image_size", "augment", "optimizer", "learning_rate", "batch_size")


class SearchTable:
    """Shows a search while it runs. A context manager.

    Args:
      quiet: show nothing.
      console: to show it on; standard error where none is given.
    """

    def __init__(self, quiet: bool = False, console: Console | None = None):
        self._console = console or Console(stderr=True)
        self._events: deque[str] = deque(maxlen=_EVENTS)
        self._quiet, self._live = (
            quiet,
            None
            if quiet or not self._console.is_terminal
            else Live(console=self._console, refresh_per_second=4, transient=False),
        )
        self._begun = time.monotonic()
        self._shown = 0.0

    def __enter__(self) -> SearchTable:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Shows an event."""
        self._events.append(f"{time.strftime('%H:%M:%S')} {text}")
        if not self._quiet and not self._live:
            with contextlib.suppress(OSError):  # who read it has gone; the search goes on
                print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def show(self, chief: Chief) -> None:
        """Draws it anew, at most twice a second."""
        now = time.monotonic()
        if self._live and now - self._shown > 0.5:
            self._shown = now
            self._live.update(self.draw(chief))

    def draw(self, chief: Chief) -> Group:
        """The table as something to print."""
        name = chief.config.objective
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("trial", "status"):
            table.add_column(title)
        for title in (name, "epoch", "images/s", "left"):
            table.add_column(title, justify="right")
        table.add_column("what it is", overflow="fold")
        for worker, lease in sorted(chief.out().items()):
            record = chief.records[lease.trial]
            values = record.values(chief.config.goal.monitor) if chief.config.goal.shift_metric is None else []
            epochs = record.config["epochs"]
            passed, done = time.monotonic() - lease.begun, lease.epoch + lease.fraction
            left = format_seconds(passed / done * (epochs - done)) if done > 0.2 else ""
            best = max(values) if chief.config.goal.direction == "max" and values else min(values, default=None)
            table.add_row(
                lease.trial, f"{lease.doing} on {worker}", _number(best), f"{done:.1f}/{epochs}",
                "" if lease.images_per_second is None else f"{lease.images_per_second:.0f}", left,
                describe_values(self._values(chief, lease.trial)),
            )  # fmt: skip
        for trial in chief.best(_BEST):
            record = chief.records[trial.trial_id]
            table.add_row(
                trial.trial_id, "pruned" if record.pruned else "completed", _number(trial.score),
                f"{len(record.history)}/{record.config['epochs']}",
                "" if record.images_per_second is None else f"{record.images_per_second:.0f}", "",
                describe_values(self._values(chief, trial.trial_id)),
            )  # fmt: skip
        return Group(
            Text(self._headline(chief), style="bold"),
            table,
            *(Text(event, style="dim") for event in tuple(self._events)),
        )

    def _values(self, chief: Chief, trial: str) -> dict[str, Any]:
        return dict(chief.oracle.trials[trial].hyperparameters.values)

    def _headline(self, chief: Chief) -> str:
        count, planned = chief.count(), chief.planned_trials
        done = count["completed"] + count["failed"]
        parts = [f"{done}" + (f" of {planned}" if planned else "") + " trials done", f"{count['running']} running"]
        if count["waiting"]:
            parts.append(f"{count['waiting']} waiting")
        if count["failed"]:
            parts.append(f"{count['failed']} failed")
        left = self._seconds_left(chief, max(1, count["running"]))
        passed = format_seconds(time.monotonic() - self._begun)
        parts.append(f"{passed} so far" + (f", about {format_seconds(left)} left" if left is not None else ""))
        return ", ".join(parts)

    def _seconds_left(self, chief: Chief, workers: int) -> float | None:
        """From the mean time that an epoch took, over the epochs that are left of those planned."""
        planned = chief.planned_epochs
        ended = set(chief.oracle.end_order)
        records = [(name, record) for name, record in list(chief.records.items()) if record.history]
        trained = sum(len(record.history) for name, record in records if name in ended)
        seconds = sum(record.seconds for name, record in records if name in ended)
        if planned is None or not trained:
            return None
        done = sum(record.config["epochs"] if name in ended else len(record.history) for name, record in records)
        return max(0.0, planned - done) * seconds / trained / workers


def describe_values(values: dict[str, Any]) -> str:
    """The hyperparameters that say most, short."""
    shown = [
        f"{values[name]:.2g}" if isinstance(values[name], float) else str(values[name])
        for name in _MOST_SHOWN
        if name in values
    ]
    return " ".join(shown)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"

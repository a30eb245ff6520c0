"""The record of a trial: what the chief writes of it, and what the live table, TensorBoard and the report read.

KerasTuner keeps a file of its own beside it, which only its oracle reads.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cxr.errors import DatasetError
from cxr.files import read_json, write_json
from tuner.space.translation import plain

RECORD_NAME = "record.json"
Status = Literal["waiting", "running", "completed", "pruned", "failed"]


@dataclasses.dataclass
class TrialResult:
    """A trial as it stands.

    Attributes:
      id: name of the trial, e.g. `0007`; trials are numbered in the order in which they were made.
      values: hyperparameters that the oracle chose, by name; only those that matter to this trial.
      config: all fields of the `TrainConfig` that came of them, every option written out.
      status: `waiting` for a worker, `running`, `completed`, `pruned` (stopped early, but scored) or `failed`.
      score: of the objective, None where there is none.
      best_epoch: epoch that the score is of, from 1; 0 where there is none.
      history: the epochs' metrics, as a run's history.csv has them: `epoch` from 1, `loss`, `val_auc`, ...
      message: why it failed or was pruned, else None.
      parameters: number of weights of the model, None before it was built.
      images_per_second: of training, median over the epochs; None before the first.
      seconds: time that workers reported to have spent on it, over all attempts.
      attempts: number of times that a worker started or resumed it.
      worker: name of the last of them.
      losses: why workers lost it, one sentence each.
    """

    id: str
    values: Mapping[str, Any]
    config: Mapping[str, Any]
    status: Status = "waiting"
    score: float | None = None
    best_epoch: int = 0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    message: str | None = None
    parameters: int | None = None
    images_per_second: float | None = None
    seconds: float = 0.0
    attempts: int = 0
    worker: str = ""
    losses: list[str] = dataclasses.field(default_factory=list)

    @property
    def epochs(self) -> int:
        """Epochs that it was given."""
        return int(self.config["epochs"])

    @property
    def value(self) -> float:
        """`score`; NaN where there is none."""
        return float("nan") if self.score is None else self.score

    @property
    def scored(self) -> bool:
        """Whether it takes part in the ranking."""
        return self.status in ("completed", "pruned") and self.score is not None

    @property
    def ended(self) -> bool:
        """Whether no worker will have it again."""
        return self.status in ("completed", "pruned", "failed")

    def add_epochs(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Adds consecutive epochs; those that an earlier attempt had, from the first of them on, are dropped."""
        first = min((row["epoch"] for row in rows), default=math.inf)
        self.history = [row for row in self.history if row["epoch"] < first] + [dict(row) for row in rows]
        speeds = [row["images_per_second"] for row in self.history if row.get("images_per_second")]
        self.images_per_second = statistics.median(speeds) if speeds else None

    def series(self, metric: str) -> list[float]:
        """A metric at each epoch that has it."""
        return [row[metric] for row in self.history if metric in row]

    def shown(self, name: str) -> str:
        """A hyperparameter, short; empty if it is inactive."""
        value = self.values.get(name)
        return "" if value is None else f"{value:.3g}" if isinstance(value, float) else plain(value)

    def save(self, project: Path) -> None:
        """Writes PROJECT/trial_ID/record.json."""
        folder = project / f"trial_{self.id}"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD_NAME, dataclasses.asdict(self), None)


def score_text(score: float | None) -> str:
    """A score with four decimals, or three digits if it is tiny; "-" if there is none."""
    if score is None:
        return "-"
    return f"{score:.4f}" if abs(score) >= 0.01 or score == 0 else f"{score:.2e}"


def ranked(trials: Iterable[TrialResult], direction: str) -> list[TrialResult]:
    """Trials that have a score, the best first; `direction` is `max` or `min`."""
    sign = -1 if direction == "max" else 1
    return sorted((trial for trial in trials if trial.scored), key=lambda trial: (sign * trial.value, trial.id))


def load_trials(project: Path) -> list[TrialResult]:
    """The records of all trials of a project, in the order of their ids.

    Raises:
      DatasetError: one cannot be read, or was written by another version.
    """
    trials = []
    for path in sorted(project.glob(f"trial_*/{RECORD_NAME}")):
        try:
            trials.append(TrialResult(**read_json(path)))
        except TypeError as error:
            raise DatasetError(f"{path} was written by another version: {error}") from error
    return trials

"""What the chief notes of each trial beside KerasTuner's own file."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr.files import write_atomically
from tuner.results import RECORD_NAME


@dataclasses.dataclass
class Record:
    """A trial's record; see `tuner.results.TrialResult` for what its fields say.

    Attributes:
      losses: what became of the workers that it was taken from, one sentence each.
    """

    config: Mapping[str, Any]
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    message: str | None = None
    pruned: bool = False
    parameters: int | None = None
    images_per_second: float | None = None
    seconds: float = 0.0
    attempts: int = 0
    worker: str = ""
    losses: list[str] = dataclasses.field(default_factory=list)

    def add_epochs(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Takes up epochs in a row; what an earlier attempt had from the first of them on no longer holds."""
        first = min((row["epoch"] for row in rows), default=math.inf)
        self.history = [row for row in self.history if row["epoch"] < first] + [dict(row) for row in rows]
        speeds = [row["images_per_second"] for row in self.history if row.get("images_per_second")]
        self.images_per_second = statistics.median(speeds) if speeds else None

    def values(self, metric: str) -> list[float]:
        """A metric at each epoch that has it."""
        return [row[metric] for row in self.history if metric in row]

    def save(self, folder: Path) -> None:
        """Writes it into the trial's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / RECORD_NAME, json.dumps(dataclasses.asdict(self)) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Record:
        """Reads it; an empty one where the folder has none."""
        path = folder / RECORD_NAME
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls({})

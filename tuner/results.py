"""What a search has found so far, read from its project's files; needs neither KerasTuner nor a running chief.

PROJECT/search.json           what is searched, and how it stands
PROJECT/oracle.json           the oracle's state, as KerasTuner keeps it
PROJECT/trial_ID/trial.json   a trial, as KerasTuner keeps it: hyperparameters, metrics, score
PROJECT/trial_ID/record.json  what KerasTuner has no place for: configuration, epochs, attempts, reasons, speed
PROJECT/runs/ID/              the trial's training run, as `cxr train` makes it
PROJECT/tensorboard/          of the search: hyperparameters and curves, a folder a trial
PROJECT/logs/                 what each worker said
PROJECT/report/, final/       of `cxr tune-report`
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr.errors import DatasetError, OutputError
from cxr.files import write_atomically
from tuner.objectives import OBJECTIVES

SEARCH_NAME = "search.json"
TRIAL_NAME = "trial.json"
RECORD_NAME = "record.json"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """A trial as it stands.

    Attributes:
      id: name of the trial, e.g. `0007`; trials are numbered in the order in which they were made.
      status: `waiting` for a worker, `running`, `completed`, `pruned` (stopped early, with a score all the same) or
        `failed`.
      score: of the objective, None where there is none.
      values: hyperparameters that the oracle chose, by name; only those that matter to this trial.
      config: all fields of the `TrainConfig` that came of them, every option written out.
      history: the epochs' metrics, as a run's history.csv has them: `epoch` from 1, `loss`, `val_auc`, ...
      best_epoch: epoch that the score is of, from 1; 0 where there is none.
      message: why it failed or was pruned, else None.
      parameters: number of weights of the model, None before it was built.
      images_per_second: of training, median over the epochs; None before the first.
      seconds: spent on it by workers that said how long, over all attempts.
      attempts: times that a worker took it up.
      worker: the last one's name.
    """

    id: str
    status: str
    score: float | None
    values: Mapping[str, Any]
    config: Mapping[str, Any]
    history: tuple[Mapping[str, float], ...] = ()
    best_epoch: int = 0
    message: str | None = None
    parameters: int | None = None
    images_per_second: float | None = None
    seconds: float = 0.0
    attempts: int = 0
    worker: str = ""

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


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """A search as it stands.

    Attributes:
      project: its directory.
      settings: of the search, as JSON: `oracle`, `objective`, `epochs`, `seed`, `data`, ..., see `SearchConfig`.
      state: `running` (or killed), `stopped` by somebody, `failed`, or `complete`.
      reason: why it failed or was stopped; else empty.
      trials: all of them, in the order of their ids.
    """

    project: Path
    settings: Mapping[str, Any]
    state: str
    reason: str
    trials: tuple[TrialResult, ...]

    @property
    def objective(self) -> str:
        """Name of what trials are scored by."""
        return str(self.settings["objective"])

    @property
    def direction(self) -> str:
        """`max` or `min`: which way the objective is better."""
        return OBJECTIVES[self.objective].direction

    @property
    def ranked(self) -> list[TrialResult]:
        """Trials that have a score, the best first; those that were pruned or had fewer epochs among them."""
        sign = -1 if self.direction == "max" else 1
        return sorted(
            (trial for trial in self.trials if trial.scored), key=lambda trial: (sign * trial.value, trial.id)
        )

    @property
    def best(self) -> TrialResult | None:
        """The best trial, None before the first has a score."""
        return next(iter(self.ranked), None)

    def run(self, trial: TrialResult) -> Path:
        """Directory of a trial's training run; on another host where its worker was there."""
        return self.project / "runs" / trial.id

    def distinct(self) -> list[TrialResult]:
        """`ranked` without trials whose hyperparameters a better one has already, given more or fewer epochs."""
        seen: set[str] = set()
        found = []
        for trial in self.ranked:
            key = json.dumps(dict(trial.values), sort_keys=True)
            if key not in seen:
                seen.add(key)
                found.append(trial)
        return found


def read_search(project: str | Path) -> SearchResult:
    """Reads a project, also while it is being searched.

    Raises:
      DatasetError: the directory holds no search, or one that this version cannot read.
    """
    project = Path(project)
    fields = read_search_file(project)
    oracle = _read(project / "oracle.json") if (project / "oracle.json").exists() else {}
    waiting = set(oracle.get("retry_queue", ()))
    ongoing = set(oracle.get("ongoing_trials", {}).values())
    trials = []
    for trial_id in oracle.get("start_order", ()):
        trial = _read(project / f"trial_{trial_id}" / TRIAL_NAME)
        path = project / f"trial_{trial_id}" / RECORD_NAME
        record = _read(path) if path.exists() else {}
        trials.append(_result(trial_id, trial, record, trial_id in waiting, trial_id in ongoing))
    trials.sort(key=lambda trial: trial.id)
    return SearchResult(project, fields["settings"], fields["state"], fields.get("reason", ""), tuple(trials))


def _result(
    trial_id: str, trial: Mapping[str, Any], record: Mapping[str, Any], waiting: bool, ongoing: bool
) -> TrialResult:
    status = {"COMPLETED": "completed", "FAILED": "failed", "INVALID": "waiting"}.get(trial["status"], "running")
    if waiting or (status == "running" and not ongoing):
        status = "waiting"
    if status == "completed" and record.get("pruned"):
        status = "pruned"
    score = trial["score"]
    known = {field.name for field in dataclasses.fields(TrialResult)}
    details = {name: value for name, value in record.items() if name in known}
    if "history" in details:
        details["history"] = tuple(details["history"])
    values = {
        name: value for name, value in trial["hyperparameters"]["values"].items() if not name.startswith("tuner/")
    }
    return TrialResult(
        id=trial_id,
        status=status,
        score=score if score is not None and math.isfinite(score) else None,
        values=values,
        best_epoch=int(trial["best_step"] or 0) if score is not None else 0,
        **{"config": {"epochs": 0}, **details},
    )


def read_search_file(project: Path) -> dict[str, Any]:
    """PROJECT/search.json: `settings`, `space`, `data`, `versions`, `state`, `reason`.

    Raises:
      DatasetError: there is none, or it cannot be read.
    """
    path = project / SEARCH_NAME
    if not path.exists():
        raise DatasetError(
            f"{project} holds no search: it has no {SEARCH_NAME}. `cxr tune --project {project}` makes one"
        )
    fields = _read(path)
    if fields.get("format") != FORMAT:
        raise DatasetError(f"{path}: expected a search of format {FORMAT}, received {fields.get('format')!r}")
    return fields


def write_search_file(project: Path, fields: Mapping[str, Any]) -> None:
    """Writes PROJECT/search.json.

    Raises:
      OutputError: it cannot be written.
    """
    try:
        write_atomically(project / SEARCH_NAME, json.dumps({"format": FORMAT, **fields}, indent=2) + "\n")
    except OSError as error:
        raise OutputError(cannot_write(project, error)) from error


def cannot_write(project: Path, error: OSError) -> str:
    """What is wrong when a project cannot be written, and how to mend it."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk is full" if full else error.strerror or str(error)
    return f"{project} cannot be written: {what}. What is there is kept: make room, then go on with --resume"


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise DatasetError(f"{path}: expected a JSON object")
    return fields

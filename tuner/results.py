"""What a search has found so far, read from its project's files; needs neither KerasTuner nor a running chief.

PROJECT/search.json           settings and state of the search
PROJECT/trial_ID/record.json  all that is known of a trial, see `tuner.trial_result`
PROJECT/oracle.json, trial_ID/trial.json   state of KerasTuner's oracle
PROJECT/runs/ID/              the trial's training run, as `cxr train` makes it
PROJECT/tensorboard/          hyperparameters and curves, a folder for each trial
PROJECT/logs/                 output of each worker
PROJECT/report/, final/       written by `cxr tune-report`
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr.errors import DatasetError, OutputError
from cxr.files import read_json, write_json
from tuner.objectives import OBJECTIVES
from tuner.space.space import Space
from tuner.trial_result import TrialResult, load_trials, ranked

__all__ = ["SearchResult", "TrialResult", "read_search"]

SEARCH_NAME = "search.json"
FORMAT = 2


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """A search as it stands.

    Attributes:
      project: its directory.
      settings: as JSON: `oracle`, `objective`, `epochs`, `seed`, `data`, ..., see `SearchConfig`.
      state: `running` (or killed), `stopped` by a signal, `failed`, or `complete`.
      reason: why it failed; else empty.
      trials: all of them, in the order of their ids.
    """

    project: Path
    settings: Mapping[str, Any]
    state: str
    reason: str
    trials: tuple[TrialResult, ...]

    @functools.cached_property
    def space(self) -> Space:
        """What was searched.

        Raises:
          InputError: the project was made by another version.
        """
        return Space.from_json(self.settings["space"])

    @property
    def objective(self) -> str:
        """Name of the objective that trials are scored by."""
        return str(self.settings["objective"])

    @property
    def direction(self) -> str:
        """`max` or `min`: which way the objective is better."""
        return OBJECTIVES[self.objective].direction

    @property
    def ranked(self) -> list[TrialResult]:
        """Trials that have a score, the best first; including those that were pruned or had fewer epochs."""
        return ranked(self.trials, self.direction)

    @property
    def best(self) -> TrialResult | None:
        """The best trial, None before the first has a score."""
        return next(iter(self.ranked), None)

    def run(self, trial: TrialResult) -> Path:
        """Directory of a trial's training run; on another host where its worker was there."""
        return self.project / "runs" / trial.id

    def distinct(self) -> list[TrialResult]:
        """`ranked` without trials that have the hyperparameters of a better one, whatever their epochs."""
        found: dict[str, TrialResult] = {}
        for trial in self.ranked:
            found.setdefault(json.dumps(dict(trial.values), sort_keys=True), trial)
        return list(found.values())


def read_search(project: str | Path) -> SearchResult:
    """Reads a project, also while it is being searched.

    Raises:
      DatasetError: the directory holds no search, or one that this version cannot read.
    """
    project = Path(project)
    fields, trials = read_search_file(project), tuple(load_trials(project))
    return SearchResult(project, fields["settings"], fields["state"], fields.get("reason", ""), trials)


def read_search_file(project: Path) -> dict[str, Any]:
    """PROJECT/search.json: `settings`, `space`, `data`, `versions`, `state`, `reason`.

    Raises:
      DatasetError: there is none, or it cannot be read.
    """
    path = project / SEARCH_NAME
    missing = f"{project} holds no search: it has no {SEARCH_NAME}. `cxr tune --project {project}` makes one"
    fields = read_json(path, missing)
    if fields.get("format") != FORMAT:
        raise DatasetError(f"{path}: expected a search of format {FORMAT}, received {fields.get('format')!r}")
    return fields


def write_search_file(project: Path, fields: Mapping[str, Any]) -> None:
    """Writes PROJECT/search.json.

    Raises:
      OutputError: it cannot be written.
    """
    try:
        write_json(project / SEARCH_NAME, {"format": FORMAT, **fields})
    except OSError as error:
        raise OutputError(cannot_write(project, error)) from error


def cannot_write(project: Path, error: OSError) -> str:
    """What is wrong when a project cannot be written, and how to mend it."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk is full" if full else error.strerror or str(error)
    return f"{project} cannot be written: {what}. What is there is kept: make room, then continue with --resume"

"""A search as rows: the ranking, the failures, and everything as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Sequence
from typing import Any

from tuner.results import SearchResult, TrialResult
from tuner.space.translation import plain
from tuner.trial_result import score_text

STATUSES = ("completed", "pruned", "failed", "running", "waiting")
HEAD = ("rank", "trial", "score", "epochs", "status", "model", "size", "parameters", "images/s")
"""First columns of the ranking; those of the hyperparameters follow."""
NUMBERS = (0, 2, 3, 6, 7, 8)
"""Those of them that are aligned to the right."""
IN_HEAD = ("model", "image_size")
"""Hyperparameters that those columns show already."""
_CSV_HEAD = ("id", "status", "rank", "score", "epochs", "epochs_given", "best_epoch", "parameters",
             "images_per_second", "seconds", "attempts", "worker")  # fmt: skip


def counts(search: SearchResult) -> dict[str, int]:
    """Number of trials by status, in the order of `STATUSES`, without zeros."""
    found = [trial.status for trial in search.trials]
    return {status: found.count(status) for status in STATUSES if status in found}


def failures(search: SearchResult) -> dict[str, list[str]]:
    """Ids of the failed trials by reason, the most frequent first; reasons that differ in numbers only count as one."""
    groups: dict[str, list[TrialResult]] = {}
    for trial in search.trials:
        if trial.status == "failed":
            groups.setdefault(re.sub(r"\d+", "0", first_line(trial.message)), []).append(trial)
    found = sorted(groups.values(), key=lambda trials: (-len(trials), trials[0].id))
    return {first_line(trials[0].message): [trial.id for trial in trials] for trials in found}


def first_line(message: str | None) -> str:
    """Of a message; says so where there is none."""
    return next((line.strip() for line in (message or "").splitlines() if line.strip()), "no reason was given")


def shown_hyperparameters(
    search: SearchResult, important: Sequence[str], most: int, but: Collection[str] = ()
) -> list[str]:
    """Hyperparameters with a column or plot of their own, so many at `most`: the `important` ones, then the others in
    the order of the space; only those that differ between trials with a score, and none of `but`.
    """
    differing = []
    for name in search.space.names:
        values = {repr(trial.values.get(name)) for trial in search.trials if trial.scored}
        if name not in but and len(values) > 1:
            differing.append(name)
    return list(dict.fromkeys([*(name for name in important if name in differing), *differing]))[:most]


def ranking(search: SearchResult, names: Sequence[str], top: int | None = None) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the ranking: `names` are hyperparameters that get a column, `top` is the most rows."""
    rows = [
        [str(rank), trial.id, score_text(trial.score), f"{len(trial.history)}/{trial.epochs}", trial.status,
         *what_it_is(trial), *(trial.shown(name) for name in names)]
        for rank, trial in enumerate(search.ranked[:top], 1)
    ]  # fmt: skip
    return [*HEAD, *names], rows


def size_of(trial: TrialResult) -> str:
    """Pixels of a trial's images: a side, or height x width."""
    size = trial.config["image_size"]
    return "x".join(map(str, size)) if isinstance(size, list) else str(size)


def what_it_is(trial: TrialResult) -> list[str]:
    """Architecture, image size, number of weights and images a second of a trial."""
    weights, rate = trial.parameters, trial.images_per_second
    speed = "-" if rate is None else f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
    return [trial.config["model"], size_of(trial), "-" if weights is None else f"{weights:,}", speed]


def to_csv(search: SearchResult) -> str:
    """All trials as CSV, a row each, in their order; cells that do not apply are empty.

    Columns: `id`, `status`, `rank`, `score`, `epochs` (trained), `epochs_given`, `best_epoch`, `parameters`,
    `images_per_second`, `seconds`, `attempts`, `worker`, each hyperparameter by its name, `message`.
    """
    names = search.space.names
    ranks = {trial.id: rank for rank, trial in enumerate(search.ranked, 1)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_CSV_HEAD, *names, "message"])
    for trial in search.trials:
        cells: list[Any] = [
            trial.id, trial.status, ranks.get(trial.id), trial.score, len(trial.history), trial.epochs or None,
            trial.best_epoch or None, trial.parameters, trial.images_per_second, trial.seconds, trial.attempts,
            trial.worker, *(trial.values.get(name) for name in names), trial.message,
        ]  # fmt: skip
        writer.writerow(["" if cell is None else plain(cell) if isinstance(cell, bool) else cell for cell in cells])
    return text.getvalue()

"""The data of the search page: rows and figures; `search.html` has the markup and sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr.console import format_seconds
from cxr.page import DISCLAIMER, render
from cxr.page.figures import to_svg
from tuner.objectives import OBJECTIVES
from tuner.report import search_plots as draw
from tuner.report import search_words as say
from tuner.report.importance import Importances
from tuner.report.trial_rows import IN_HEAD, NUMBERS, failures, first_line, ranking, shown_hyperparameters, what_it_is
from tuner.results import SearchResult
from tuner.space.translation import MEANINGS, plain
from tuner.trial_result import score_text

_COLUMNS = 3
_PLOTS = 6
"""Hyperparameters with a column in the ranking, and with a plot."""
_MOST_ROWS = 30
"""Longer tables are folded."""


def search_page(
    search: SearchResult, best_file: Path, importances: Importances, finals: Mapping[str, Any] | None
) -> str:
    """The page; the best configuration is written to `best_file`, `finals` are what `tuner.retraining` has found."""
    names = shown_hyperparameters(search, importances.names, _PLOTS)
    return render(
        Path(__file__).with_name("search.html"),
        f"Search {search.project.resolve().name}",
        DISCLAIMER,
        headline=say.headline(search),
        best=_best(search, best_file),
        standing=say.standing(search),
        subject=_subject(search),
        finals=_finals(finals),
        **_trials(search, importances),
        course=[
            to_svg(draw.course_figure(search), "course", "score of each trial, in order"),
            to_svg(draw.curves_figure(search), "curves", "validation by epoch of the best trials"),
        ],
        epochs_differ=len({trial.epochs for trial in search.ranked}) > 1,
        importances=importances,
        explained=f"{100 * max(0.0, importances.r2 or 0):.0f}",
        importance_figure=to_svg(draw.importance_figure(importances), "importance", "importance by hyperparameter"),
        which="The most important ones" if set(names) <= set(importances.names) else "Some that differ between trials",
        parameters=_parameters(search, names),
        costs=[_cost(search, cost) for cost in draw.COSTS],
        space=_space(search),
        settings=[[name.replace("_", " "), "-" if value is None else plain(value)]
                  for name, value in search.settings.items() if name != "space"],
    )  # fmt: skip


def _best(search: SearchResult, best_file: Path) -> dict[str, Any] | None:
    best = search.best
    if best is None:
        return None
    return {
        "described": say.described(best),
        "chosen": say.chosen(best),
        "command": say.train_command(search, best, best_file, " \\\n    "),
        "shorter": say.shorter_than_others(search),
        "config": [
            [name, value if isinstance(value, str) else json.dumps(value)] for name, value in best.config.items()
        ],
    }


def _subject(search: SearchResult) -> list[list[Any]]:
    epochs = sum(len(trial.history) for trial in search.trials)
    seconds = sum(trial.seconds for trial in search.trials)
    better = "higher" if search.direction == "max" else "lower"
    return [
        ["project", search.project],
        ["data", search.settings["data"]],
        ["objective", f"{search.objective}: {OBJECTIVES[search.objective].text}; {better} is better"],
        ["trained", f"{epochs} epochs in {format_seconds(seconds)}, all workers together"],
    ]


def _finals(finals: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not finals:
        return None
    from tuner.retraining import retrained_rows

    head, rows = retrained_rows(finals)
    return {"seeds": len(finals["seeds"]), "split": finals["split"], "head": head, "rows": rows}


def _trials(search: SearchResult, importances: Importances) -> dict[str, Any]:
    """The ranking, the trials without a score, and why trials failed or were pruned."""
    head, rows = ranking(search, shown_hyperparameters(search, importances.names, _COLUMNS, IN_HEAD))
    unscored = [
        [trial.id, trial.status, f"{len(trial.history)}/{trial.epochs}", *what_it_is(trial)[:2], trial.attempts,
         trial.worker or "-"]
        for trial in search.trials
        if not trial.scored
    ]  # fmt: skip
    pruned = [[trial.id, first_line(trial.message)] for trial in search.trials if trial.status == "pruned"]
    return {
        "ranking": {"head": head, "rows": rows, "numbers": NUMBERS},
        "most_rows": _MOST_ROWS,
        "comparable": say.comparable(search),
        "unscored": {"head": ["trial", "status", "epochs", "model", "size", "attempts", "worker"], "rows": unscored},
        "failures": [[len(trials), reason, _listed(trials)] for reason, trials in failures(search).items()],
        "pruned": {"head": ["trial", "reason"], "rows": pruned},
    }


def _parameters(search: SearchResult, names: Sequence[str]) -> list[dict[str, Any]]:
    shown = [parameter for name in names for parameter in search.space.variants(name)]
    return [
        {
            "figure": to_svg(draw.parameter_figure(search, each), f"parameter{place}", f"score against {each.name}"),
            "meaning": f"{each.name}: {MEANINGS[each.name]}" if each.name in MEANINGS else each.name,
        }
        for place, each in enumerate(shown)
    ]


def _cost(search: SearchResult, cost: draw.Cost) -> dict[str, Any]:
    figure = draw.pareto_figure(search, cost)
    return {
        "figure": to_svg(figure, f"pareto{cost.replace('_', '')}", f"score against {draw.COSTS[cost]}"),
        "less": "fewer weights" if cost == "parameters" else "more images per second",
        "rows": [[each.id, score_text(each.score), *what_it_is(each)] for each in draw.pareto_trials(search, cost)[1]],
    }


def _space(search: SearchResult) -> dict[str, Any]:
    space = search.space
    combinations = space.combinations()
    return {
        "name": space.name,
        "size": "infinitely many configurations" if combinations is None else f"{combinations:,} configurations",
        "rows": [
            [each.name, each.shown, each.conditions or "-", each.about or MEANINGS.get(each.name, "")]
            for each in space.parameters
        ],
        "fixed": [[name, plain(value)] for name, value in space.fixed.items()],
    }


def _listed(trials: Sequence[str], most: int = 12) -> str:
    rest = len(trials) - most
    return ", ".join(trials[:most]) + (f" and {rest} more" if rest > 0 else "")

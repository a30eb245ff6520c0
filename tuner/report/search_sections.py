"""The sections of the page, in order; each returns its markup."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr.console import format_seconds
from trainer.report.markup import Html, element, facts, join, paragraph, plots, table, warning
from trainer.report.style import to_svg
from tuner.objectives import OBJECTIVES
from tuner.report import search_plots as draw
from tuner.report.importance import Importances
from tuner.report.search_words import (
    LUCK,
    chosen,
    comparable,
    described,
    headline,
    shorter_than_others,
    standing,
    train_command,
)
from tuner.report.tables import (
    IN_HEAD,
    NUMBERS,
    failures,
    first_line,
    model_of,
    number,
    ranking,
    shown_hyperparameters,
    size_of,
    space_of,
    speed,
)
from tuner.results import SearchResult
from tuner.space.translation import MEANINGS, plain

_COLUMNS = 3
_PLOTS = 6
"""Hyperparameters that have a column in the ranking, and a plot."""
_OPEN, _FEW = 30, 8
"""Rows that a table shows unasked."""


def summary_section(search: SearchResult, best_file: Path) -> Html:
    """The best trial, how to train it, and how the search stands."""
    parts = [paragraph(headline(search), class_="headline")]
    best = search.best
    if best is not None:
        parts += [
            paragraph(described(best), f" Its hyperparameters: {chosen(best) or 'none'}. To train it:"),
            element("pre", train_command(search, best, best_file, " \\\n    ")),
        ]
        shorter = shorter_than_others(search)
        parts += [paragraph(shorter)] if shorter else []
        parts.append(warning(LUCK))
    parts.append(paragraph(standing(search)))
    seconds = sum(trial.seconds for trial in search.trials)
    rows = [
        ["project", search.project],
        ["data", search.settings.get("data", "-")],
        ["objective", f"{search.objective}: {OBJECTIVES[search.objective].text}; "
                      f"{'higher' if search.direction == 'max' else 'lower'} is better"],
        ["trained", f"{sum(len(trial.history) for trial in search.trials)} epochs in {format_seconds(seconds)}, "
                    "all workers together"],
    ]  # fmt: skip
    return join([*parts, facts(rows)])


def ranking_section(search: SearchResult, importances: Importances) -> Html:
    """All trials that have a score, the best first; then the others."""
    names = shown_hyperparameters(search, importances.names, _COLUMNS, IN_HEAD)
    head, rows = ranking(search, names)
    parts = []
    if rows:
        caution = comparable(search)
        parts += [paragraph(caution)] if caution else []
        parts.append(table(head, rows[:_OPEN], NUMBERS))
        if rows[_OPEN:]:
            parts.append(_folded(f"{len(rows) - _OPEN} more", table(head, rows[_OPEN:], NUMBERS)))
        parts.append(paragraph("Every hyperparameter is in trials.csv.", class_="muted"))
    else:
        parts.append(paragraph("No trial has a score yet."))
    others = [
        [trial.id, trial.status, f"{len(trial.history)}/{trial.epochs}", model_of(trial), size_of(trial),
         f"{trial.attempts}", trial.worker or "-"]
        for trial in search.trials
        if not trial.scored
    ]  # fmt: skip
    if others:
        shown = table(["trial", "status", "epochs", "model", "size", "attempts", "worker"], others, (2, 4, 5))
        parts += [element("h3", "Without a score"), _folded(f"{len(others)} trials", shown, len(others) <= _OPEN)]
    return join(parts)


def failures_section(search: SearchResult) -> Html:
    """Why trials failed, and which were pruned."""
    rows = [[len(failure.trials), failure.reason, _listed(failure.trials)] for failure in failures(search)]
    parts = [table(["trials", "reason", "which"], rows, (0,)) if rows else paragraph("No trial failed.")]
    pruned = [[trial.id, first_line(trial.message)] for trial in search.trials if trial.status == "pruned"]
    if pruned:
        parts += [
            element("h3", "Pruned"),
            paragraph("Stopped before their last epoch, for others were better by then. They keep their best score."),
            _folded(f"{len(pruned)} trials", table(["trial", "reason"], pruned), len(pruned) <= _FEW),
        ]
    return join(parts)


def course_section(search: SearchResult, top: int) -> Html:
    """Scores over trials, and curves of the best."""
    figures = [
        to_svg(draw.course_figure(search), "course", "score of each trial, in order"),
        to_svg(draw.curves_figure(search, top), "curves", "validation by epoch of the best trials"),
    ]
    captions = [
        "Hollow: pruned. The line is the best so far."
        + (" Smaller: given fewer epochs." if len({trial.epochs for trial in search.ranked}) > 1 else ""),
        "The best trials, in the order of the ranking; all others in grey.",
    ]
    return plots(*figures, captions=captions)


def hyperparameters_section(search: SearchResult, importances: Importances) -> Html:
    """How much each mattered, and the scores against the most important."""
    parts = []
    if importances.ranked:
        parts.append(
            paragraph(
                f"A random forest learned the order of {importances.configurations} configurations from their "
                "hyperparameters. A bar is how much of what it foretells of trials that it has not seen is lost when "
                "that hyperparameter is shuffled among the trials in which it matters (permutation importance; the "
                "line is the standard deviation over the shuffles). Of all the variance of the order it foretells "
                f"{100 * max(0.0, importances.r2 or 0):.0f} % (out-of-bag R2 {importances.r2:.2f}); a loss may be "
                "more than that. Differences in epochs are accounted for."
            )
        )
        if importances.caution:
            parts.append(warning(f"{importances.caution}."))
        parts.append(
            plots(to_svg(draw.importance_figure(importances), "importance", "importance of each hyperparameter"))
        )
    else:
        parts.append(paragraph(f"What mattered cannot be said: {importances.reason}."))
    names = shown_hyperparameters(search, importances.names, _PLOTS)
    shown = [parameter for name in names for parameter in space_of(search).variants(name)]
    if names:
        figures = [
            to_svg(draw.parameter_figure(search, each), f"parameter{place}", f"score against {each.name}")
            for place, each in enumerate(shown)
        ]
        which = "The most important ones" if set(names) <= set(importances.names) else "Those that differ, or some"
        smaller = " Smaller: given fewer epochs." if len({trial.epochs for trial in search.ranked}) > 1 else ""
        parts += [
            element("h3", "Scores by hyperparameter"),
            paragraph(
                f"{which}. Hollow: pruned.{smaller} A bar is the median of its column. A trend may be that of another "
                "hyperparameter, for an oracle that learns tries good values of all of them together."
            ),
            plots(*figures, captions=[_meaning(each.name) for each in shown]),
        ]
    return join(parts)


def cost_section(search: SearchResult) -> Html:
    """Scores against size and speed, and a table of the trials that no other beats at both."""
    figures, parts = [], []
    for cost, name in draw.COSTS.items():
        figures.append(
            to_svg(draw.pareto_figure(search, cost), f"pareto{cost.replace('_', '')}", f"score against {name}")
        )
        rows = [
            [trial.id, number(trial.score), model_of(trial), size_of(trial),
             "-" if trial.parameters is None else f"{trial.parameters:,}", speed(trial)]
            for trial in draw.pareto_trials(search, cost)[1]
        ]  # fmt: skip
        if rows:
            less = "fewer weights" if cost == "parameters" else "more images a second"
            parts.append(element("h3", f"No other trial has {less} and a better score"))
            parts.append(table(["trial", "score", "model", "size", "parameters", "images/s"], rows, (1, 3, 4, 5)))
    about = paragraph(
        "A trial on the line is beaten by no other at both. Speeds are of training on the worker that had the trial, "
        "and compare only where all workers are alike."
    )
    return join([about, plots(*figures), *parts])


def space_section(search: SearchResult) -> Html:
    """What was varied, what was not, and the search's own settings."""
    space = space_of(search)
    rows = [
        [
            parameter.name,
            parameter.shown,
            parameter.conditions or "-",
            parameter.about or MEANINGS.get(parameter.name, ""),
        ]
        for parameter in space.parameters
    ]
    combinations = space.combinations()
    size = "infinitely many configurations" if combinations is None else f"{combinations:,} configurations"
    parts = [
        paragraph(f"Space '{space.name}': {len(space.names)} hyperparameters, {size}."),
        table(["hyperparameter", "values", "only for", "what it is"], rows),
    ]
    if space.fixed:
        parts += [element("h3", "The same in every trial"), facts((n, plain(v)) for n, v in space.fixed.items())]
    settings = [
        [name.replace("_", " "), plain(value) if value is not None else "-"]
        for name, value in search.settings.items()
        if name != "space"
    ]
    return join([*parts, element("h3", "Settings of the search"), facts(settings)])


def best_section(search: SearchResult) -> Html:
    """The whole configuration of the best trial."""
    if search.best is None:
        return paragraph("No trial has a score yet.")
    return facts(
        [name, value if isinstance(value, str) else json.dumps(value)] for name, value in search.best.config.items()
    )


def finals_section(finals: Mapping[str, Any], head: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    """What training the best again gave, beside the baselines.

    Args:
      finals: as `tuner.retraining` has them.
      head, rows: of its table.
    """
    text = (
        f"Each trained anew over {len(finals['seeds'])} seeds and evaluated on the split '{finals['split']}': the "
        "mean, and from the lowest to the highest. `worst` is under the shift of the images that hurts most."
    )
    return join([paragraph(text), table(head, rows, range(1, len(head)))])


def _meaning(name: str) -> str:
    return f"{name}: {MEANINGS[name]}" if name in MEANINGS else name


def _folded(title: str, content: Html, is_open: bool = False) -> Html:
    """What is long and seldom read: shown when its title is clicked on."""
    return content if is_open else element("details", element("summary", title), content)


def _listed(trials: Sequence[str], most: int = 12) -> str:
    rest = len(trials) - most
    return ", ".join(trials[:most]) + (f" and {rest} more" if rest > 0 else "")

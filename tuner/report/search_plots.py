"""The figures of a search. Each function returns a figure, whatever is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from cxr.page.figures import (
    COLOURS,
    MARKERS,
    MUTED,
    legend_below,
    line_style,
    new_figure,
    note,
    short,
    styled,
    whole_ticks,
)
from tuner.objectives import OBJECTIVES
from tuner.report.importance import Importances
from tuner.results import SearchResult, TrialResult
from tuner.space.parameter import Parameter
from tuner.space.translation import plain

Cost = Literal["parameters", "images_per_second"]
COSTS: dict[Cost, str] = {"parameters": "weights of the model", "images_per_second": "images a second, in training"}
"""Costs that scores are plotted against, and the names of their axes."""
_MOST_CURVES = 8
_MOST_BARS = 12
_NOTHING = "no trial has a score yet"
_STATUS_STYLES: dict[str, dict[str, Any]] = {
    "completed": {"marker": MARKERS[0], "color": COLOURS[0]},
    "pruned": {"marker": MARKERS[0], "color": COLOURS[0], "markerfacecolor": "white"},
    "failed": {"marker": "x", "color": COLOURS[1]},
}


@styled
def course_figure(search: SearchResult) -> Figure:
    """The score of each trial in the order in which they were made, and the best so far."""
    figure, axes = _plot(3.7, "Score over trials", "trial, in the order in which they were made")
    places = {trial.id: place for place, trial in enumerate(search.trials, 1)}
    scored = [trial for trial in search.trials if trial.scored]
    _statuses(axes, [(places[trial.id], trial) for trial in scored], _most_epochs(search))
    if scored:
        better = np.maximum if search.direction == "max" else np.minimum
        best = better.accumulate([trial.value for trial in scored])
        ends = [*(places[trial.id] for trial in scored), len(search.trials)]
        axes.step(ends, [*best, best[-1]], where="post", color=MUTED, linewidth=1.2, label="best so far", zorder=1)
        _score_axis(axes, search)
    else:
        note(axes, _NOTHING)
    failed = [places[trial.id] for trial in search.trials if trial.status == "failed"]
    if failed:
        axes.plot(failed, [0.02] * len(failed), linestyle="", transform=axes.get_xaxis_transform(),
                  label="failed", clip_on=False, **_STATUS_STYLES["failed"])  # fmt: skip
    axes.set_xlim(0.5, max(1, len(search.trials)) + 0.5)
    whole_ticks(axes)
    if axes.get_legend_handles_labels()[1]:
        legend_below(axes, 4, 12)
    return figure


@styled
def curves_figure(search: SearchResult) -> Figure:
    """The monitored metric of the best trials by epoch, before the others in grey."""
    metric = OBJECTIVES[search.objective].monitor
    best = [trial for trial in search.ranked if _curve(trial, metric)][:_MOST_CURVES]
    others = [trial for trial in search.trials if trial not in best and _curve(trial, metric)]
    figure, axes = _plot(3.4 + 0.1 * len(best), f"{metric} by epoch", "epoch")
    for trial in others:
        axes.plot(*zip(*_curve(trial, metric), strict=True), color="#d3d7dc", linewidth=0.8, zorder=1)
    for place, trial in enumerate(best):
        curve = _curve(trial, metric)
        marker = MARKERS[0] if len(curve) == 1 else ""
        axes.plot(*zip(*curve, strict=True), marker=marker, label=f"{trial.id}, {trial.config.get('model', '')}",
                  zorder=3 + len(best) - place, **line_style(place, len(best)))  # fmt: skip
    if not best and not others:
        note(axes, "no trial has finished an epoch yet")
    axes.set_ylabel(metric)
    _wide_to_log(axes, [value for trial in [*best, *others] for _, value in _curve(trial, metric)])
    whole_ticks(axes)
    if best:
        legend_below(axes, len(best), max(len(label) for label in axes.get_legend_handles_labels()[1]))
    return figure


@styled
def importance_figure(importances: Importances) -> Figure:
    """Bars, the most important above; with the spread over the shuffles."""
    shown = importances.ranked[:_MOST_BARS]
    figure, axes = _plot(1.1 + 0.24 * max(4, len(shown)), "Importance", "loss of R2 when it is shuffled")
    if not shown:
        note(axes, importances.reason)
        axes.set_axis_off()
        return figure
    places = range(len(shown))
    axes.barh(places, [max(0.0, one.value) for one in shown], color=COLOURS[0], height=0.65)
    axes.errorbar([max(0.0, one.value) for one in shown], places, xerr=[one.spread for one in shown], fmt="none",
                  ecolor="#33383f", elinewidth=1)  # fmt: skip
    axes.set_yticks(places, [one.label for one in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    return figure


@styled
def parameter_figure(search: SearchResult, parameter: Parameter) -> Figure:
    """Scores against one hyperparameter: points over a range, strips over a choice."""
    name = parameter.name
    figure, axes = _plot(3.0, name)
    trials = [trial for trial in search.ranked if name in trial.values and parameter.matters(trial.values)]
    if not trials:
        note(axes, _NOTHING)
    elif parameter.values:
        _strips(axes, parameter, trials, _most_epochs(search))
    else:
        _statuses(axes, [(float(trial.values[name]), trial) for trial in trials], _most_epochs(search))
        if parameter.log:
            axes.set_xscale("log")
            _plain_log(axes.xaxis, [float(trial.values[name]) for trial in trials], "{:g}".format)
    if trials:
        _score_axis(axes, search)
    if parameter.when:
        axes.set_xlabel(short(f"only for {parameter.conditions}", 56), color="#5a626c", fontsize=8)
    return figure


@styled
def pareto_figure(search: SearchResult, cost: Cost) -> Figure:
    """Scores against a cost, and the trials that no other beats in both."""
    figure, axes = _plot(3.7, f"Score against {'size' if cost == 'parameters' else 'speed'}", COSTS[cost])
    trials, front = pareto_trials(search, cost)
    if not trials:
        note(axes, _NOTHING if not search.ranked else "no trial with a score has this figure")
        return figure
    values = [float(getattr(trial, cost)) for trial in trials]
    others = [(value, trial) for value, trial in zip(values, trials, strict=True) if trial not in front]
    _statuses(axes, others, _most_epochs(search))
    axes.set_xscale("log")
    places = [(float(getattr(trial, cost)), trial.value) for trial in front]
    axes.plot(*zip(*places, strict=True), marker=MARKERS[0], color=COLOURS[1], label="not beaten in both", zorder=4,
              drawstyle="steps-post" if cost == "parameters" else "steps-pre")  # fmt: skip
    axes.set_xlim(min(values) / 1.6, max(values) * 1.6)  # room for names
    _score_axis(axes, search)
    _plain_log(axes.xaxis, values, _short_number)
    up, right = 1 if search.direction == "max" else -1, -1 if cost == "parameters" else 1
    _name_points(axes, places, [trial.id for trial in front], up, right)
    legend_below(axes, 3, 20)
    return figure


def pareto_trials(search: SearchResult, cost: Cost) -> tuple[list[TrialResult], list[TrialResult]]:
    """Trials with a score and this cost, and those that no other beats in both, by increasing cost."""
    trials = [trial for trial in search.ranked if (getattr(trial, cost) or 0) > 0]
    sign = 1 if cost == "parameters" else -1
    costs = [sign * getattr(trial, cost) for trial in trials]
    front = pareto_front([trial.value for trial in trials], costs, search.direction)
    return trials, [trials[index] for index in front][::sign]


def pareto_front(scores: Sequence[float], costs: Sequence[float], direction: str = "max") -> list[int]:
    """Indices of the points that no other dominates, the cheapest first; points of equal cost in the given order.

    A point dominates another if it is no worse in both respects and better in one, so equal points stay or go together.

    Args:
      scores: one a point, finite.
      costs: one a point, finite; less is better. If more is better, pass the negative.
      direction: which way a score is better, `max` or `min`.
    """
    gain = np.asarray(scores, float) * (1 if direction == "max" else -1)
    cost = np.asarray(costs, float)
    beaten = [((gain >= g) & (cost <= c) & ((gain > g) | (cost < c))).any() for g, c in zip(gain, cost, strict=True)]
    return [int(index) for index in np.argsort(cost, kind="stable") if not beaten[index]]


def _plot(height: float, title: str, x: str = "") -> tuple[Figure, Axes]:
    """An empty plot; its height in inches."""
    figure = new_figure(height)
    return figure, figure.add_subplot(title=title, xlabel=x)


def _statuses(axes: Axes, points: Sequence[tuple[float, TrialResult]], most: int) -> None:
    """Points by status, smaller where a trial was given fewer epochs than the most."""
    for status in ("completed", "pruned"):
        label: str | None = status
        for epochs in sorted({trial.epochs for _, trial in points if trial.status == status}, reverse=True):
            those = [(place, trial) for place, trial in points if (trial.status, trial.epochs) == (status, epochs)]
            found = [(place, trial.value) for place, trial in those]
            size = 3 + 2.5 * math.sqrt(min(1.0, epochs / max(1, most)))
            axes.plot(*zip(*found, strict=True), linestyle="", markersize=size, label=label, alpha=0.85, zorder=3,
                      **_STATUS_STYLES[status])  # fmt: skip
            label = None


def _strips(axes: Axes, parameter: Parameter, trials: Sequence[TrialResult], most: int) -> None:
    """Points spread sideways so that those of one score do not hide each other; a bar at the median."""
    given = [trial.values[parameter.name] for trial in trials]
    known = list(dict.fromkeys([*parameter.values, *given]))
    known = known if any(isinstance(value, str) for value in known) else sorted(known)
    points = []
    for place, value in enumerate(known):
        mine = [trial for trial, own in zip(trials, given, strict=True) if own == value]
        spread = np.random.default_rng(place).uniform(-0.22, 0.22, len(mine)) if len(mine) > 1 else [0.0]
        points += list(zip(place + np.asarray(spread), mine, strict=False))
        if len(mine) > 2:
            middle = float(np.median([trial.value for trial in mine]))
            axes.plot([place - 0.32, place + 0.32], [middle] * 2, color="#33383f", linewidth=1.4, zorder=2)
    _statuses(axes, points, most)
    axes.set_xticks(range(len(known)), [short(plain(value)) for value in known])
    if len(known) > 5 or max(len(plain(value)) for value in known) * len(known) > 36:
        axes.tick_params(axis="x", labelrotation=30)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
    axes.set_xlim(-0.6, len(known) - 0.4)
    axes.grid(visible=False, axis="x")


def _most_epochs(search: SearchResult) -> int:
    return max((trial.epochs for trial in search.ranked), default=1)


def _score_axis(axes: Axes, search: SearchResult) -> None:
    """The same axis in all figures, so that they can be compared."""
    values = [trial.value for trial in search.ranked]
    axes.set_ylabel(search.objective)
    margin = 0.06 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 0.1
    axes.set_ylim(min(values) - margin, max(values) + margin)
    if _wide_to_log(axes, values):
        axes.set_ylim(min(values) / 1.2, max(values) * 1.2)


def _wide_to_log(axes: Axes, values: Sequence[float]) -> bool:
    """Makes the axis logarithmic if a diverged loss would press all others onto one line."""
    known = [value for value in values if math.isfinite(value)]
    if known and min(known) > 0 and max(known) > 30 * min(known):
        axes.set_yscale("log")
        _plain_log(axes.yaxis, known, "{:g}".format)
        return True
    return False


def _plain_log(axis: Axis, values: Sequence[float], text: Callable[[float], str]) -> None:
    """Plain numbers on a logarithmic axis; more of them where it is short."""
    decades = math.log10(max(values) / min(values))
    axis.set_major_locator(LogLocator(subs=(1,) if decades > 3 else (1, 3) if decades > 1.5 else (1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_formatter(NullFormatter())


def _short_number(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _name_points(axes: Axes, places: Sequence[tuple[float, float]], names: Sequence[str], up: int, right: int) -> None:
    """Names beside points, on the side where the line is not (1 or -1: `up`, `right`); left out where another name is
    already, the best first. The limits of the axes are final.
    """
    taken: list[np.ndarray] = []
    for index in sorted(range(len(places)), key=lambda index: -up * places[index][1]):
        pixels = axes.transData.transform(places[index])
        if all(abs(pixels[0] - other[0]) > 34 or abs(pixels[1] - other[1]) > 13 for other in taken):
            taken.append(pixels)
            axes.annotate(names[index], places[index], xytext=(4 * right, 4 * up), textcoords="offset points",
                          ha="left" if right > 0 else "right", va="bottom" if up > 0 else "top",
                          fontsize=8, color="#33383f", zorder=5)  # fmt: skip


def _curve(trial: TrialResult, metric: str) -> list[tuple[float, float]]:
    found = [(row["epoch"], row[metric]) for row in trial.history if row.get(metric) is not None]
    return [(epoch, value) for epoch, value in found if math.isfinite(value)]

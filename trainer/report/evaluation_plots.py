"""The figures of an evaluation; each function returns a figure, drawn whatever is undefined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn import metrics as sklearn_metrics

from cxr.page.figures import (
    COLOURS,
    MARKERS,
    MUTED,
    WIDTH,
    legend_below,
    line_style,
    log_counts,
    new_figure,
    note,
    short,
    styled,
    unit_square,
    whole_ticks,
)
from trainer.evaluation.metrics import CALIBRATION_BINS, calibration_curve
from trainer.evaluation.operating_point import OperatingPoint
from trainer.evaluation.predictions import Predictions

SHIFT_METRICS = {"recall": "recall", "specificity": "specificity", "roc_auc": "ROC AUC"}
"""What the chart of the shifts shows, and how it is named there."""
_LARGEST_CONFUSION = 12
"""Labels up to which the cells of a confusion matrix are wide enough for numbers."""


def curve_labels(metrics: Mapping[str, Any]) -> list[str]:
    """The labels that get curves: the positive one of a binary task, else all."""
    return [metrics["positive"]] if metrics["positive"] else list(metrics["labels"])


@styled
def roc_figure(predictions: Predictions, metrics: Mapping[str, Any]) -> Figure:
    """The ROC curve of each label, and where it is operated."""

    def curve(label: str) -> Any:
        return sklearn_metrics.roc_curve(*predictions.against_rest(label))[:2]

    figure, axes = _draw_curves(metrics, "roc_auc", curve, lambda values: (1 - values["specificity"], values["recall"]))
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":", zorder=1)
    unit_square(axes, "false alarms: share of images without it (1 - specificity)", "found: share of images with it")
    axes.set_title("ROC curve")
    _add_legend(axes, "all images or none have the label: there is no ROC curve")
    return figure


@styled
def pr_figure(predictions: Predictions, metrics: Mapping[str, Any]) -> Figure:
    """The precision-recall curve of each label; of a single one with what guessing would give."""

    def curve(label: str) -> Any:
        precision, recall, _ = sklearn_metrics.precision_recall_curve(*predictions.against_rest(label))
        return recall, precision

    figure, axes = _draw_curves(metrics, "pr_auc", curve, lambda values: (values["recall"], values["precision"]))
    labels = curve_labels(metrics)
    share = predictions.against_rest(labels[0])[0].mean()
    if len(labels) == 1 and share:
        axes.axhline(share, color=MUTED, linewidth=1, linestyle=":", label=f"guessing, {share:.3f}")
    unit_square(axes, "found: share of images with it (recall)", "right when it says so (precision)")
    axes.set_title("Precision and recall")
    _add_legend(axes, "no image has the label: there is no curve")
    return figure


def _draw_curves(
    metrics: Mapping[str, Any], area: str, curve: Callable[[str], Any], operated: Callable[[Mapping[str, Any]], Any]
) -> tuple[Figure, Axes]:
    """A plot with a curve for each label that has one, and a dot where the label is operated.

    `area` is the metric that is the area under a curve, undefined where there is none; `curve` gives a label's
    horizontal and vertical values, `operated` the place of the dot by the label's metrics.
    """
    labels = curve_labels(metrics)
    figure = new_figure(3.7 + _legend_height(labels))
    axes = figure.add_subplot()
    for number, label in enumerate(labels):
        values = {name: one["value"] for name, one in metrics["per_label"][label].items()}
        if values[area] is None:
            continue
        style = line_style(number, len(labels))
        axes.plot(*curve(label), label=f"{short(label)}, area {values[area]:.3f}", **style)
        place = operated(values)
        if None not in place:
            axes.plot(
                *place, MARKERS[0], color=style["color"], markeredgecolor="white", markersize=8,
                label="operating point" if len(labels) == 1 else None, zorder=5, clip_on=False,
            )  # fmt: skip
    return figure, axes


@styled
def calibration_figure(predictions: Predictions, metrics: Mapping[str, Any]) -> Figure:
    """Probability against frequency, and below how many images have such a probability."""
    labels = curve_labels(metrics)
    figure = new_figure(4.3 + _legend_height(labels))
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    images = np.zeros(CALIBRATION_BINS, int)
    for number, label in enumerate(labels):
        curve = calibration_curve(predictions, label)
        above.plot(
            curve["predicted"], curve["observed"], marker=MARKERS[0], markersize=4, label=short(label),
            clip_on=False, **line_style(number, len(labels)),
        )  # fmt: skip
        images += np.histogram(predictions.against_rest(label)[1], CALIBRATION_BINS, (0, 1))[0]
    unit_square(above, "", "share that have it")
    above.set_title("Calibration")
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    below.bar(edges[:-1], images, width=np.diff(edges), align="edge", color="#c9d3de", edgecolor="white")
    log_counts(below)
    below.set(xlabel="probability that the model gives", ylabel="images")
    if len(labels) > 1:
        _add_legend(above)
    return figure


@styled
def score_figure(predictions: Predictions, point: OperatingPoint, metrics: Mapping[str, Any]) -> Figure:
    """How often each probability is given to images with a label and without, and the threshold."""
    labels = curve_labels(metrics)
    columns = 1 if len(labels) == 1 else 2
    rows = -(-len(labels) // columns)
    figure = new_figure(3.4 if rows == 1 else 0.6 + 1.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes, label in zip(grid.flat, labels, strict=False):
        truth, scores = predictions.against_rest(label)
        names = ("without", "with") if len(labels) > 1 else _both_names(predictions, truth, label)
        for has, name in enumerate(names):
            axes.hist(scores[truth == has], bins=40, range=(0, 1), color=COLOURS[has], alpha=0.55, label=name)
        if label in point.thresholds:
            axes.axvline(point.thresholds[label], color="black", linewidth=1.2, label="threshold")
        log_counts(axes)
        axes.set_xlim(0, 1)
        axes.set_title(f"Probability of {short(label, 24)}" if len(labels) == 1 else short(label))
    for axes in list(grid.flat)[len(labels) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("probability")
    for axes in grid[:, 0]:
        axes.set_ylabel("images (log scale)" if rows == 1 else "images")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


class Confusion(NamedTuple):
    """A confusion matrix to draw.

    Attributes:
      title: heading.
      names: of the labels.
      table: counts int64 [true, predicted].
      cells: what they say: the images, their share of the row, or both.
    """

    title: str
    names: Sequence[str]
    table: np.ndarray
    cells: Literal["images", "share", "both"]


def confusion_panels(metrics: Mapping[str, Any]) -> list[Confusion]:
    """One matrix with images and one with shares; where an image may have several labels, one for each label."""
    found = metrics["confusion"]
    if isinstance(found, Mapping):
        return [Confusion(short(label, 28), ("without", "with"), np.array(found[label]), "both") for label in found]
    matrix = metrics["labels"], np.array(found)
    return [Confusion("Images", *matrix, "images"), Confusion("Share of the row", *matrix, "share")]


@styled
def confusion_figure(panels: Sequence[Confusion]) -> Figure:
    """Matrices of what is true (rows) and predicted (columns), shaded by the share of the row."""
    by_label = panels[0].cells == "both"
    columns = min(len(panels), 4 if by_label else 2)
    rows = -(-len(panels) // columns)
    side = 2.9 if by_label else WIDTH
    figure = new_figure((0.75 if len(panels[0].names) < 4 else 0.95) * side * rows, side * columns)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, panel in zip(grid, panels, strict=False):
        _draw_confusion(axes, panel)
    for axes in list(grid)[len(panels) :]:
        axes.set_visible(False)
    return figure


def _draw_confusion(axes: Axes, panel: Confusion) -> None:
    table, size = panel.table, len(panel.names)
    totals = table.sum(axis=1, keepdims=True)
    parts = np.divide(table, totals, out=np.full(table.shape, np.nan), where=totals > 0)
    edges = np.arange(size + 1) - 0.5
    axes.pcolormesh(edges, edges, np.nan_to_num(parts), cmap="Blues", vmin=0, vmax=1.15, edgecolors="white")
    axes.grid(False)
    if size <= _LARGEST_CONFUSION:
        for row, column in np.ndindex(table.shape):
            part = parts[row, column]
            share = "-" if np.isnan(part) else f"{100 * part:.1f} %"
            images = str(table[row, column])
            text = {"images": images, "share": share, "both": f"{images}\n{share}"}[panel.cells]
            colour = "white" if part > 0.6 else "#20252b"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=11 if size < 4 else 8)
    shown = [short(name, 14) for name in panel.names]
    axes.set_xticks(range(size), shown, rotation=0 if size < 4 and max(map(len, shown)) < 12 else 35, ha="center")
    axes.set_yticks(range(size), shown, rotation=90 if size < 4 else 0, va="center")
    axes.set(xlabel="the model says", ylabel="true", title=panel.title)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)


@styled
def history_figure(
    history: Sequence[Mapping[str, float]], best_epoch: int | None, panels: Sequence[str] = ("loss", "auc")
) -> Figure:
    """Loss, or AUC with accuracy beside it, by epoch, of training and validation, in panels beside each other.

    The best epoch, from 1, is marked; None marks none.
    """
    figure = new_figure(3.5, WIDTH * len(panels))
    epochs = [row["epoch"] for row in history]
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        for name, label, number, line in _HISTORY[panel]:
            values = [row.get(name, np.nan) for row in history]
            if not np.isnan(values).all():
                style = {"marker": MARKERS[number], "markersize": 4, "color": COLOURS[number]}
                axes.plot(epochs, values, line, label=label, **style)
        if best_epoch:
            axes.axvline(best_epoch, color=MUTED, linewidth=1, linestyle="--", label=f"best epoch, {best_epoch}")
        axes.set_title("Loss" if panel == "loss" else "AUC and accuracy")
        axes.set_xlabel("epoch")
        whole_ticks(axes)
        axes.legend()
    return figure


_HISTORY = {
    "loss": (("loss", "training", 0, "-"), ("val_loss", "validation", 1, "-")),
    "auc": (
        ("auc", "AUC, training", 0, "-"), ("val_auc", "AUC, validation", 1, "-"),
        ("accuracy", "accuracy, training", 0, ":"), ("val_accuracy", "accuracy, validation", 1, ":"),
    ),
}  # fmt: skip
"""By panel: column, name, number of its colour, dashes."""


@styled
def shift_figure(metrics: Mapping[str, Any]) -> Figure:
    """Recall, specificity and AUC under each shift, beside those of the images as they are."""
    found = {"(unchanged)": metrics["metrics"], **{name: one["metrics"] for name, one in metrics["shifts"].items()}}
    rows = list(found)
    figure = new_figure(1.4 + 0.27 * len(rows))
    axes = figure.add_subplot()
    lowest = 1.0
    for number, (name, title) in enumerate(SHIFT_METRICS.items()):
        before = metrics["metrics"][name]["value"]
        if before is None:
            continue
        values = np.array([one[name]["value"] for one in found.values()], float)  # NaN where undefined
        lowest = min(lowest, np.nanmin(values))
        places, colour = np.arange(len(rows)) + 0.17 * (number - 1), COLOURS[number]
        axes.axvline(before, color=colour, linewidth=1, linestyle=":")
        axes.plot(values, places, MARKERS[number], color=colour, label=title, clip_on=False)
        worst = metrics["worst"].get(name)
        if worst and worst["drop"] > 0:
            axes.plot(
                worst["value"], places[rows.index(worst["shift"])], "o", markersize=12, clip_on=False,
                markerfacecolor="none", markeredgecolor="black", label="_",
            )  # fmt: skip
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(np.floor(10 * lowest) / 10 - 0.02, 1.01)
    axes.set_title("Under shifts of the images")
    axes.set_xlabel("ringed: the worst; dotted: the unchanged images")
    figure.legend(loc="outside lower center", ncols=len(SHIFT_METRICS))
    return figure


def _both_names(predictions: Predictions, truth: np.ndarray, label: str) -> tuple[str, str]:
    """The other label of two and this one, and how many images have them."""
    other = predictions.labels[1 - predictions.label_index(label)] if len(predictions.labels) == 2 else "without"
    return f"{short(other)} ({(1 - truth).sum()})", f"{short(label)} ({truth.sum()})"


def _legend_height(labels: list[str]) -> float:
    return 0.5 if len(labels) < 3 else 0.2 + 0.17 * len(labels)


def _add_legend(axes: Axes, why_empty: str = "") -> None:
    """A legend below, or a note in a plot without curves."""
    _, names = axes.get_legend_handles_labels()
    if names:
        legend_below(axes, len(names), max(map(len, names)))
    else:
        note(axes, why_empty)

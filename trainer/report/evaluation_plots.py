"""The figures of an evaluation; each function returns a figure, drawn whatever is undefined."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
from trainer.evaluation.metrics import CALIBRATION_BINS, calibration_curve, pr_curve, roc_curve
from trainer.evaluation.operating_point import OperatingPoint
from trainer.evaluation.predictions import Predictions

SHIFT_METRICS = {"recall": "recall", "specificity": "specificity", "roc_auc": "ROC AUC"}
"""What the chart of the shifts shows, and how it is named there."""
Cells = Literal["images", "share", "both"]
_LARGEST_CONFUSION = 12
"""Labels up to which the cells of a confusion matrix are wide enough for numbers."""


def curve_labels(metrics: Mapping[str, Any]) -> list[str]:
    """The labels that get curves: the positive one of a binary task, else all."""
    return [metrics["positive"]] if metrics["positive"] else list(metrics["labels"])


@styled
def roc_figure(predictions: Predictions, metrics: Mapping[str, Any]) -> Figure:
    """The ROC curve of each label, and where it is operated."""
    labels = curve_labels(metrics)
    figure = new_figure(3.7 + _legend_height(labels))
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    drawn = 0
    for number, label in enumerate(labels):
        curve, values = roc_curve(predictions, label), metrics["per_label"][label]
        if not len(curve["recall"]):
            continue
        drawn += 1
        auc = values["roc_auc"]["value"]
        axes.plot(
            curve["false_positive_rate"],
            curve["recall"],
            label=f"{short(label)}, area {auc:.3f}",
            **line_style(number, len(labels)),
        )
        recall, specificity = (values[name]["value"] for name in ("recall", "specificity"))
        if recall is not None and specificity is not None:
            axes.plot(
                1 - specificity, recall, MARKERS[0], color=line_style(number)["color"], markeredgecolor="white",
                markersize=8, label="operating point" if len(labels) == 1 else None, zorder=5, clip_on=False,
            )  # fmt: skip
    unit_square(axes, "false alarms: share of images without it (1 - specificity)", "found: share of images with it")
    axes.set_title("ROC curve")
    _finish_curves(axes, labels, drawn, "all images or none have the label: there is no ROC curve")
    return figure


@styled
def pr_figure(predictions: Predictions, metrics: Mapping[str, Any]) -> Figure:
    """The precision-recall curve of each label; of a single one with what guessing would give."""
    labels = curve_labels(metrics)
    figure = new_figure(3.7 + _legend_height(labels))
    axes = figure.add_subplot()
    drawn = 0
    for number, label in enumerate(labels):
        curve, values = pr_curve(predictions, label), metrics["per_label"][label]
        if not len(curve["recall"]):
            continue
        drawn += 1
        area = values["pr_auc"]["value"]
        axes.plot(
            curve["recall"],
            curve["precision"],
            label=f"{short(label)}, area {area:.3f}",
            **line_style(number, len(labels)),
        )
        recall, precision = (values[name]["value"] for name in ("recall", "precision"))
        if recall is not None and precision is not None:
            axes.plot(
                recall, precision, MARKERS[0], color=line_style(number)["color"], markeredgecolor="white",
                markersize=8, label="operating point" if len(labels) == 1 else None, zorder=5, clip_on=False,
            )  # fmt: skip
        if len(labels) == 1:
            share = predictions.truth_matrix[:, predictions.label_index(label)].mean()
            axes.axhline(share, color=MUTED, linewidth=1, linestyle=":", label=f"guessing, {share:.3f}")
    unit_square(axes, "found: share of images with it (recall)", "right when it says so (precision)")
    axes.set_title("Precision and recall")
    _finish_curves(axes, labels, drawn, "no image has the label: there is no curve")
    return figure


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
        scores = predictions.probabilities[:, predictions.label_index(label)]
        images += np.histogram(scores, CALIBRATION_BINS, (0, 1))[0]
    unit_square(above, "", "share that have it")
    above.set_title("Calibration")
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    below.bar(edges[:-1], images, width=np.diff(edges), align="edge", color="#c9d3de", edgecolor="white")
    log_counts(below)
    below.set(xlabel="probability that the model gives", ylabel="images")
    if len(labels) > 1:
        _finish_curves(above, labels, len(labels), "")
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
        column = predictions.label_index(label)
        truth, scores = predictions.truth_matrix[:, column] == 1, predictions.probabilities[:, column]
        names = ("without", "with") if len(labels) > 1 else _both_names(predictions, truth, label)
        for chosen, colour, name in zip((~truth, truth), COLOURS, names, strict=False):
            axes.hist(scores[chosen], bins=40, range=(0, 1), color=colour, alpha=0.55, label=name)
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
    figure.legend(*_legend_of_scores(grid.flat), loc="outside lower center", ncols=3)
    return figure


def confusion_tables(metrics: Mapping[str, Any]) -> dict[str, tuple[list[str], np.ndarray]]:
    """Names and counts int64 [true, predicted] of each matrix to draw, by title: one, or one for each label."""
    found = metrics["confusion"]
    if isinstance(found, Mapping):
        return {label: (["without", "with"], np.array(table)) for label, table in found.items()}
    return {"": (list(metrics["labels"]), np.array(found))}


@styled
def confusion_figure(
    tables: Mapping[str, tuple[list[str], np.ndarray]], cells: Sequence[Cells] = ("images",)
) -> Figure:
    """Matrices of what is true (rows) and predicted (columns), shaded by the share of the row.

    Args:
      tables: as `confusion_tables` gives them.
      cells: what the cells of a panel say: the images, their share of the row, or both; a panel for each.
    """
    panels = [(title, names, table, kind) for title, (names, table) in tables.items() for kind in cells]
    columns = min(len(panels), 2 if len(cells) > 1 else 4)
    rows = -(-len(panels) // columns)
    largest = max(len(names) for _, names, _, _ in panels)
    side = 2.9 if "both" in cells else WIDTH
    figure = new_figure((0.75 * side if largest < 4 else 0.95 * side) * rows, side * columns)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (title, names, table, kind) in zip(grid.flat, panels, strict=False):
        _draw_confusion(axes, names, table, kind)
        axes.set_title(short(title, 28) or ("Share of the row" if kind == "share" else "Images"))
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    return figure


def _draw_confusion(axes: Axes, names: list[str], table: np.ndarray, kind: Cells) -> None:
    totals = table.sum(axis=1, keepdims=True)
    parts = np.divide(table, totals, out=np.full(table.shape, np.nan), where=totals > 0)
    size = len(names)
    edges = np.arange(size + 1) - 0.5
    axes.pcolormesh(edges, edges, np.nan_to_num(parts), cmap="Blues", vmin=0, vmax=1.15, edgecolors="white")
    axes.grid(False)
    if size <= _LARGEST_CONFUSION:
        for row, column in np.ndindex(table.shape):
            part = parts[row, column]
            share = "-" if np.isnan(part) else f"{100 * part:.1f} %"
            text = {"images": f"{table[row, column]}", "share": share, "both": f"{table[row, column]}\n{share}"}[kind]
            colour = "white" if part > 0.6 else "#20252b"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=11 if size < 4 else 8)
    shown = [short(name, 14) for name in names]
    axes.set_xticks(range(size), shown, rotation=0 if size < 4 and max(map(len, shown)) < 12 else 35, ha="center")
    axes.set_yticks(range(size), shown, rotation=90 if size < 4 else 0, va="center")
    axes.set(xlabel="the model says", ylabel="true")
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)


@styled
def history_figure(
    history: Sequence[Mapping[str, float]], best_epoch: int | None, panels: Sequence[str] = ("loss", "auc")
) -> Figure:
    """Loss, or AUC with accuracy beside it, by epoch, of training and validation; the best epoch is marked.

    Args:
      history: as `Run.read_history` gives it.
      best_epoch: from 1; None marks none.
      panels: `loss` and `auc`, beside each other.
    """
    figure = new_figure(3.5, WIDTH * len(panels))
    epochs = [row["epoch"] for row in history]
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        for name, label, number, line in _HISTORY[panel]:
            values = [row.get(name, np.nan) for row in history]
            if not np.isnan(values).all():
                axes.plot(
                    epochs, values, line, marker=MARKERS[number], markersize=4, color=COLOURS[number], label=label
                )
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
    shifts = metrics["shifts"]
    figure = new_figure(1.4 + 0.27 * (len(shifts) + 1))
    axes = figure.add_subplot()
    rows = ["(unchanged)", *shifts]
    lowest = 1.0
    for number, (name, title) in enumerate(SHIFT_METRICS.items()):
        before = metrics["metrics"][name]["value"]
        values = [before, *(_value(one["metrics"].get(name)) for one in shifts.values())]
        known = [(value, row) for row, value in enumerate(values) if value is not None]
        if before is None or not known:
            continue
        lowest = min(lowest, *(value for value, _ in known))
        axes.axvline(before, color=COLOURS[number], linewidth=1, linestyle=":")
        places = [row + 0.17 * (number - 1) for _, row in known]
        axes.plot(
            [value for value, _ in known], places, MARKERS[number], color=COLOURS[number], label=title, clip_on=False
        )
        worst = (metrics["worst"] or {}).get(name)
        if worst and worst["drop"] > 0 and worst["shift"] in rows:
            axes.plot(
                worst["value"], rows.index(worst["shift"]) + 0.17 * (number - 1), "o", markersize=12, clip_on=False,
                markerfacecolor="none", markeredgecolor="black", label="_",
            )  # fmt: skip
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(np.floor(10 * lowest) / 10 - 0.02, 1.01)
    axes.set_title("Under shifts of the images")
    axes.set_xlabel("ringed: the worst; dotted: the unchanged images")
    figure.legend(loc="outside lower center", ncols=len(SHIFT_METRICS))
    return figure


def _value(metric: Any) -> float | None:
    return metric["value"] if isinstance(metric, Mapping) else metric


def _both_names(predictions: Predictions, truth: np.ndarray, label: str) -> tuple[str, str]:
    """The other label of two and this one, and how many images have them."""
    other = predictions.labels[1 - predictions.label_index(label)] if len(predictions.labels) == 2 else "without"
    return f"{short(other)} ({(~truth).sum()})", f"{short(label)} ({truth.sum()})"


def _legend_of_scores(panels: Iterable[Axes]) -> tuple[list[Any], list[str]]:
    """Handles and names of the panels, each name once."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    return list(found.values()), list(found)


def _legend_height(labels: list[str]) -> float:
    return 0.5 if len(labels) < 3 else 0.2 + 0.17 * len(labels)


def _finish_curves(axes: Axes, labels: list[str], drawn: int, why_empty: str) -> None:
    if not drawn:
        note(axes, why_empty)
        return
    _, names = axes.get_legend_handles_labels()
    legend_below(axes, len(names), max(map(len, names)))

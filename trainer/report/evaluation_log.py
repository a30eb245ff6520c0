"""The same evaluation in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxr.events import EventWriter, is_event_file
from cxr.page import number
from trainer.evaluation.predictions import Predictions
from trainer.report.evaluation_plots import SHIFT_METRICS, curve_labels
from trainer.report.evaluation_words import headline, interval, metric_name, rule_text, shift_sentence

SLIDES = ("roc", "pr", "confusion", "calibration", "scores", "shifts", "mistakes", "gradcam")
"""Pictures shown in TensorBoard, if they were drawn."""


def write_board(
    folder: Path, predictions: Predictions, metrics: Mapping[str, Any], report: str, pictures: Mapping[str, np.ndarray],
    step: int,
) -> None:  # fmt: skip
    """Writes one event file into the folder of a split, which replaces those of earlier evaluations.

    Metrics are as `metrics.json` has them, pictures uint8 [height, width, 3] by name; the step is the best epoch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    old = [path for path in folder.iterdir() if is_event_file(path.name)]
    with EventWriter(folder) as events:
        events.scalars(_scalars(metrics), step)
        for label in curve_labels(metrics):
            events.pr_curve(f"precision and recall/{label}", *predictions.against_rest(label), step)
        for name in SLIDES:
            if name in pictures:
                events.image(f"evaluation/{name}", pictures[name], step)
        events.text("evaluation/summary", _summary(metrics), step)
        events.text("evaluation/classification report", "\n".join("    " + line for line in report.splitlines()), step)
    for path in old:
        path.unlink(missing_ok=True)


def _scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    found = {f"evaluation/{name}": values["value"] for name, values in metrics["metrics"].items()}
    if not metrics["positive"]:
        for label, by_name in metrics["per_label"].items():
            found.update({f"evaluation of {label}/{name}": values["value"] for name, values in by_name.items()})
    for shift, values in (metrics["shifts"] or {}).items():
        for name in SHIFT_METRICS:
            found[f"shifts/{name}/{shift}"] = values["metrics"][name]["value"]
    for name, worst in (metrics["worst"] or {}).items():
        found[f"worst shift/{name}"] = worst["value"]
    return {tag: value for tag, value in found.items() if value is not None}


def _summary(metrics: Mapping[str, Any]) -> str:
    rows = [
        f"| {metric_name(name)} | {number(one['value'])} | {interval(one)} |"
        for name, one in metrics["metrics"].items()
    ]
    lines = [
        f"**{_plain(metrics['run'])}** on split {_plain(metrics['split'])} of {_plain(metrics['data'])}: "
        f"{metrics['images']} images of {metrics['patients']} patients.",
        *map(_plain, headline(metrics)),
        _plain(rule_text(metrics)),
        "\n".join(["| metric | value | interval |", "|---|---|---|", *rows]),
    ]
    if metrics["shifts"]:
        lines.append(_plain(shift_sentence(metrics)[0]))
    return "\n\n".join(lines)


def _plain(text: str) -> str:
    """Text with the special characters of Markdown escaped."""
    return "".join("\\" + sign if sign in "\\`*_[]<>#|" else sign for sign in text)

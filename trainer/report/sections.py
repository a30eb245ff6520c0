"""The sections of the report, in order; each returns its markup."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfrecords.dataset import XrayDataset
from tfrecords.format.shards import AUDIT_NAME
from trainer.evaluation.metrics import ERROR_METRICS, METRICS, evaluate_predictions
from trainer.evaluation.operating_point import OperatingPoint
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.shifts import SHIFTS
from trainer.report.gallery import Group, Picture
from trainer.report.markup import LINE_BREAK, Html, element, facts, join, paragraph, picture, plots, table, warning
from trainer.report.words import (
    DROP_TO_WARN_OF,
    EXPLANATIONS,
    headline,
    interval,
    metric_name,
    number,
    percent,
    prevalence,
    rule_text,
    shift_sentence,
    split_cautions,
)
from trainer.run import Run

DISCLAIMER = "For research only; not a medical device. It must not be used to decide about a patient."
_SHIFT_COLUMNS = ("accuracy", "recall", "specificity", "roc_auc", "calibration_error")


def what_was_evaluated(run: Run, data: XrayDataset, metrics: Mapping[str, Any]) -> Html:
    """Model, data, split and date."""
    shares = prevalence(metrics)
    images = metrics["images"]
    counts = ", ".join(f"{round(share * images)} {label} ({100 * share:.1f} %)" for label, share in shares.items())
    same = data.manifest.digest == run.facts.digest
    trained = "the same data set" if same else f"another data set, {run.facts.path}"
    rows = [
        ["run", run.name],
        ["model", f"{run.config.model} on {run.config.size_text}"
         + (f", pretrained weights: {run.config.weights}" if run.config.weights != "none" else "")],
        ["trained", f"{run.made.get('started', '-')} on {trained}"],
        ["data", f"{metrics['data']}, split '{metrics['split']}'"],
        ["images", f"{images} of {metrics['patients']} patients"],
        ["labels", counts],
        ["evaluated", time.strftime("%Y-%m-%d %H:%M")],
        ["code", run.made.get("git_commit") or "-"],
    ]  # fmt: skip
    cautions = [warning(text) for text in audit_warnings(data)]
    return join([facts(rows), paragraph(element("strong", DISCLAIMER)), *cautions])


def audit_warnings(data: XrayDataset) -> list[str]:
    """What the data set's audit warns of that makes figures better than they should be."""
    try:
        found = json.loads((data.root / AUDIT_NAME).read_text(encoding="utf-8"))["warnings"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [
        f"The audit of the data set says: {text}" for text in found if str(text).startswith(("SHORTCUT", "PATIENTS"))
    ]


def the_result(run: Run, data: XrayDataset, metrics: Mapping[str, Any]) -> Html:
    """The headline in sentences, and why it may be too good."""
    first, *rest = headline(metrics)
    parts = [paragraph(first, class_="headline"), *map(paragraph, rest)]
    if metrics["shifts"]:
        sentence, warn = shift_sentence(metrics)
        if warn:
            parts.append(
                warning(
                    "These figures hold for images that were made and stored as these were. The same images, changed "
                    f"in ways that should not matter, fare worse. {sentence}"
                )
            )
    same = data.manifest.digest == run.facts.digest
    parts += [warning(text) for text in split_cautions(metrics, same)]
    return join(parts)


def metrics_table(metrics: Mapping[str, Any]) -> Html:
    """Every metric with its interval and what it means; by label too where there is no one positive label."""
    level = percent(metrics)
    of = (
        f"These are of {metrics['positive']}."
        if metrics["positive"]
        else "These are means over the labels, each against the rest."
    )
    rows = [
        [
            metric_name(name),
            number(metrics["metrics"][name]["value"]),
            interval(metrics["metrics"][name]),
            EXPLANATIONS[name],
        ]
        for name in METRICS
        if name in metrics["metrics"]
    ]
    parts = [
        paragraph(
            f"{of} The {level} interval is how far a figure would vary with other patients of the same kind; "
            "it was found by drawing the patients again and again."
        ),
        table(["metric", "value", f"{level} interval", "what it says"], rows, (1, 2), "explained"),
    ]
    if not metrics["positive"]:
        names = [name for name in METRICS if name not in ("brier", "calibration_error")]
        shares = prevalence(metrics)
        by_label = [
            [label, round(shares[label] * metrics["images"]), *(_stacked(values[name]) for name in names)]
            for label, values in metrics["per_label"].items()
        ]
        parts += [
            element("h3", "By label"),
            table(["label", "images", *map(metric_name, names)], by_label, numbers=range(1, 2 + len(names))),
        ]
    return join(parts)


def _stacked(values: Mapping[str, float | None], digits: int = 2) -> Html:
    return Html(f'{number(values["value"])}<br><span class="muted">{interval(values, digits)}</span>')


def history_section(figures: Sequence[str], run: Run) -> Html:
    """Training curves, where the run has any."""
    if not figures:
        return paragraph("The run has no history.")
    outcome = run.read_outcome()
    which = "the best epoch"
    if outcome.get("best_epoch"):
        which = f"epoch {outcome['best_epoch']} of {outcome.get('epochs', '-')}, the best"
    text = f"What is evaluated are the weights of {which} by {run.config.monitor}."
    return join([paragraph(text), plots(*figures)])


def shifts_section(metrics: Mapping[str, Any], svg: str | None) -> Html:
    """How each shift changes the metrics, and how to read that."""
    shifts = metrics["shifts"]
    if not shifts or svg is None:
        return paragraph("Not measured: the evaluation was made without the shift suite.")
    sentence, warn = shift_sentence(metrics)
    columns = [name for name in _SHIFT_COLUMNS if name in metrics["metrics"]]
    before = (number(metrics["metrics"][name]["value"]) for name in columns)
    rows = [[_named("(as it is)", "the images as they are stored"), *before]]
    for shift, values in shifts.items():
        name_and_what = _named(shift, SHIFTS[shift].description if shift in SHIFTS else "")
        rows.append([name_and_what, *(_shifted(metrics, shift, name, values["metrics"].get(name)) for name in columns)])
    parts = [
        paragraph(
            "Other hospitals' images are compressed, exposed and scaled otherwise. Here the same images are changed "
            "so, mildly enough that a radiologist would read them alike, and the model decides by the same threshold. "
            "A model that looks at the lungs changes little; one that learned the files falls. Judge the model by its "
            "worst row, not by its first."
        ),
        warning(sentence) if warn else paragraph(sentence),
        plots(svg),
        table(["shift", *map(metric_name, columns)], rows, numbers=range(1, 1 + len(columns))),
        paragraph(
            f"Coloured: worse than the images as they are by more than {100 * DROP_TO_WARN_OF:.0f} points. "
            "Shaded: the worst of its column.",
            class_="muted",
        ),
    ]
    return join(parts)


def _named(name: str, description: str) -> Html:
    return join([name, element("span", description, class_="muted")])


def _shifted(metrics: Mapping[str, Any], shift: str, name: str, found: Any) -> Html | str:
    value = found["value"] if isinstance(found, Mapping) else found
    before = metrics["metrics"][name]["value"]
    text = number(value)
    if value is None or before is None:
        return text
    worse = (value - before) if name in ERROR_METRICS else (before - value)
    worst = (metrics["worst"] or {}).get(name, {}).get("shift") == shift and worse > 0
    classes = ["bad"] * (worse > DROP_TO_WARN_OF) + ["worst"] * worst
    return element("span", text, class_=" ".join(classes)) if classes else text


def causes_section(predictions: Predictions, point: OperatingPoint, metrics: Mapping[str, Any]) -> Html | None:
    """Results by cause of the finding; None where the data name none, or where the causes are the labels."""
    chosen = predictions.causes != ""
    positive = metrics["positive"]
    if positive:
        truth = predictions.truth == predictions.label_index(positive)
        chosen = chosen & truth
    causes = sorted(set(predictions.causes[chosen].tolist()))
    if metrics["task"] == "multi-class":
        pairs = set(zip(predictions.causes.tolist(), predictions.truth.tolist(), strict=True))
        causes = causes if len(pairs) > len(set(predictions.truth.tolist())) else []
    if not causes:
        return None
    decided = point.apply(predictions)
    right = (decided == predictions.truth).reshape(len(predictions), -1).all(axis=1)
    rows = []
    for cause in causes:
        of_cause = chosen & (predictions.causes == cause)
        patients = len(np.unique(predictions.groups()[of_cause]))
        row: list[Any] = [cause, int(of_cause.sum()), patients, int(right[of_cause].sum())]
        if positive:
            found = _against_negatives(predictions, of_cause | ~truth, point, metrics)
            row += [_stacked(found["recall"], 3), _stacked(found["roc_auc"], 3)]
        else:
            row.append(number(float(right[of_cause].mean())))
        rows.append(row)
    if positive:
        head = ["cause", "images", "patients", "found", "recall", "ROC AUC"]
        text = (
            f"How many of the images with {positive} are found, by cause, with {percent(metrics)} intervals. "
            "The ROC AUC is of that cause against all images without."
        )
    else:
        head = ["cause", "images", "patients", "decided rightly", "share"]
        text = "How many images are decided rightly, by cause."
    return join([paragraph(text), table(head, rows, numbers=range(1, len(head)))])


def _against_negatives(
    predictions: Predictions, chosen: np.ndarray, point: OperatingPoint, metrics: Mapping[str, Any]
) -> dict[str, Any]:
    arrays = ("probabilities", "truth", "rows", "patients", "paths", "causes")
    subset = dataclasses.replace(predictions, **{name: getattr(predictions, name)[chosen] for name in arrays})
    return evaluate_predictions(
        subset,
        point,
        metrics["positive"],
        metrics.get("bootstrap", 1000),
        metrics.get("seed", 0),
        metrics.get("level", 0.95),
    )["metrics"]


def gallery_section(
    groups: Sequence[Group],
    pictures: Sequence[Sequence[Picture]],
    predictions: Predictions,
    why_no_heat: str,
    mistakes: bool,
) -> Html:
    """Mistakes or right answers, each beside what the model looked at."""
    parts = []
    if mistakes:
        parts.append(paragraph("The mistakes of which the model was surest. ", why_no_heat or _ABOUT_HEAT))
    shown = [pair for pair in zip(groups, pictures, strict=True) if pair[0].mistakes == mistakes]
    if not shown:
        return join([*parts, paragraph("There are none.")])
    for group, found in shown:
        total = (
            f"{group.total}, all shown"
            if group.total == len(group.examples)
            else f"{len(group.examples)} of {group.total} shown"
        )
        parts.append(element("h3", f"{group.title} ({total})"))
        parts.append(
            element(
                "div",
                *(_figure(example, one, predictions) for example, one in zip(group.examples, found, strict=True)),
                class_="gallery",
            )
        )
    return join(parts)


_ABOUT_HEAT = (
    "On the right, Grad-CAM: warm colours mark what spoke for the label named. Heat outside of the lungs, on letters, "
    "borders or shoulders, is a bad sign."
)


def _figure(example: Any, shown: Picture, predictions: Predictions) -> Html:
    index = example.index
    label = predictions.labels[example.label]
    path = str(predictions.paths[index])
    images = [picture(shown.image, f"chest X-ray {path}")]
    if shown.heat is not None:
        images.append(picture(shown.heat, f"the same, with what speaks for {label}"))
    about = [f"patient {predictions.patients[index] or 'unknown'}"]
    if predictions.causes[index] and predictions.causes[index].casefold() not in example.text.casefold():
        about.append(f"cause {predictions.causes[index]}")
    caption = [element("strong", example.text), LINE_BREAK, ", ".join(about), LINE_BREAK, path]
    return element("figure", element("div", *images, class_="pair"), element("figcaption", *caption))


def how_it_was_made(run: Run, data: XrayDataset, metrics: Mapping[str, Any]) -> Html:
    """What is needed to make it again."""
    point = metrics["operating_point"]
    made = run.made
    command = made.get("command")
    intervals = "none"
    if metrics.get("bootstrap"):
        intervals = f"{metrics['bootstrap']} bootstrap replicates by patient, seed {metrics.get('seed', 0)}"
    origin = [
        ["operating point", f"rule {point['rule']}. {rule_text(metrics)}"],
        ["chosen on", f"split '{point['chosen_on']}' of the data that the run was trained on"],
          ["intervals", intervals],
        ["data set", f"{metrics['data']}, fingerprint {data.manifest.digest}"],
        ["trained on", f"{run.facts.path}, fingerprint {run.facts.digest}"],
        ["trained by", " ".join(map(str, command)) if command else "-"],
        ["started", made.get("started", "-")],
        ["commit", made.get("git_commit") or "-"],
        ["machine", f"{made.get('machine', '-')}, Python {made.get('python', '-')}"],
        ["versions", ", ".join(f"{name} {version}" for name, version in made.get("versions", {}).items()) or "-"],
        ["preset", run.preset or "-"],
    ]  # fmt: skip
    config = [
        [name, json.dumps(value) if not isinstance(value, str) else value]
        for name, value in run.config.to_json().items()
    ]
    return join([facts(origin), element("h3", "Configuration"), facts(config), paragraph(DISCLAIMER)])

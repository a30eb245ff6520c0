"""The data of the evaluation page: numbers, rows and figures; `evaluation.html` has the markup and sentences."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr.page import Cell, number, picture
from tfrecords.dataset import XrayDataset
from tfrecords.format.shards import AUDIT_NAME
from trainer.evaluation.metrics import ERROR_METRICS, METRICS, evaluate_predictions
from trainer.evaluation.operating_point import OperatingPoint
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.shifts import SHIFTS
from trainer.report import evaluation_words as words
from trainer.report.gallery import Example, Group
from trainer.run import Run


def page_data(
    run: Run, data: XrayDataset, predictions: Predictions, point: OperatingPoint, metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything on the page that is no figure and no image, by the template's names."""
    same = data.manifest.digest == run.facts.digest
    return {
        "subject": _subject(run, metrics, same),
        "audit_warnings": audit_warnings(data),
        "headline": words.headline(metrics),
        "cautions": words.split_cautions(metrics, same),
        "positive": metrics["positive"],
        "level": words.LEVEL_TEXT,
        "metric_rows": [
            [words.metric_name(name), number(one["value"]), words.interval(one), words.EXPLANATIONS[name]]
            for name, one in metrics["metrics"].items()
        ],
        "by_label": None if metrics["positive"] else _by_label(metrics),
        "shifts": _shifts(metrics) if metrics["shifts"] else None,
        "causes": _causes(predictions, point, metrics),
        "subgroups": _subgroups(metrics) if metrics.get("subgroups") else None,
        "outcome": {"best_epoch": None, "epochs": None, **run.read_outcome()},
        "monitor": run.config.monitor,
        "origin": _origin(run, data, metrics),
        "config": [
            [name, value if isinstance(value, str) else json.dumps(value)]
            for name, value in run.config.to_json().items()
        ],
    }


def gallery_data(groups: Sequence[Group], predictions: Predictions, mistakes: bool) -> list[dict[str, Any]]:
    """Groups of mistakes, or of right answers, each with its images."""
    return [
        {"title": group.title, "total": group.total, "shown": [_shown(one, predictions) for one in group.examples]}
        for group in groups
        if group.mistakes == mistakes
    ]


def _shown(example: Example, predictions: Predictions) -> dict[str, Any]:
    path, cause = (str(texts[example.index]) for texts in (predictions.paths, predictions.causes))
    heat = f"the same, with what speaks for {predictions.labels[example.label]}"
    return {
        "image": picture(example.image, f"chest X-ray {path}"),
        "heat": "" if example.heat is None else picture(example.heat, heat),
        "text": example.text,
        "patient": str(predictions.patients[example.index]),
        "cause": "" if cause.casefold() in example.text.casefold() else cause,
        "path": path,
    }


def audit_warnings(data: XrayDataset) -> list[str]:
    """Warnings of the data set's audit about what makes figures better than they should be."""
    try:
        found = json.loads((data.root / AUDIT_NAME).read_text(encoding="utf-8"))["warnings"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [str(text) for text in found if str(text).startswith(("SHORTCUT", "PATIENTS"))]


def _subject(run: Run, metrics: Mapping[str, Any], same: bool) -> list[list[Any]]:
    images, shares = metrics["images"], words.prevalence(metrics)
    weights = f", pretrained weights: {run.config.weights}" if run.config.weights != "none" else ""
    return [
        ["run", run.name],
        ["model", f"{run.config.model} on {run.config.size_text}{weights}"],
        ["trained", f"{run.made.get('started', '-')} on {'the same' if same else 'another'} data set"
                    f"{'' if same else f', {run.facts.path}'}"],
        ["data", f"{metrics['data']}, split '{metrics['split']}'"],
        ["images", f"{images} of {metrics['patients']} patients"],
        ["labels", ", ".join(f"{round(part * images)} {label} ({100 * part:.1f} %)" for label, part in shares.items())],
        ["evaluated", time.strftime("%Y-%m-%d %H:%M")],
        ["code", run.made.get("git_commit") or "-"],
    ]  # fmt: skip


def _with_interval(values: Mapping[str, float | None], digits: int = 2) -> Cell:
    return Cell(number(values["value"]), words.interval(values, digits))


def _by_label(metrics: Mapping[str, Any]) -> dict[str, Any]:
    names = [name for name in METRICS if name not in ERROR_METRICS]
    shares = words.prevalence(metrics)
    return {
        "head": ["label", "images", *map(words.metric_name, names)],
        "rows": [
            [label, round(shares[label] * metrics["images"]), *(_with_interval(values[name]) for name in names)]
            for label, values in metrics["per_label"].items()
        ],
    }


def _subgroups(metrics: Mapping[str, Any]) -> dict[str, Any]:
    rows, head = words.subgroup_table(metrics)
    return {"head": head, "rows": rows}


def _shifts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """How each shift changes the metrics."""
    sentence, warn = words.shift_sentence(metrics)
    unchanged = (number(metrics["metrics"][name]["value"]) for name in words.SHIFT_COLUMNS)
    rows = [[Cell("(unchanged)", "the images as they are stored"), *unchanged]]
    for shift, found in metrics["shifts"].items():
        cells = (_shifted(metrics, shift, name, found["metrics"][name]["value"]) for name in words.SHIFT_COLUMNS)
        rows.append([Cell(shift, SHIFTS[shift].description), *cells])
    return {
        "sentence": sentence,
        "warn": warn,
        "points": f"{100 * words.DROP_TO_WARN_OF:.0f}",
        "head": ["shift", *map(words.metric_name, words.SHIFT_COLUMNS)],
        "rows": rows,
    }


def _shifted(metrics: Mapping[str, Any], shift: str, name: str, value: float | None) -> Cell | str:
    before = metrics["metrics"][name]["value"]
    if value is None or before is None:
        return number(value)
    worse = (value - before) if name in ERROR_METRICS else (before - value)
    worst = metrics["worst"][name]["shift"] == shift and worse > 0
    return Cell(number(value), kind=" ".join(["bad"] * (worse > words.DROP_TO_WARN_OF) + ["worst"] * worst))


def _causes(predictions: Predictions, point: OperatingPoint, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Results by cause of the finding; None if the data name no cause, or if the causes are the labels."""
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
    right = predictions.is_right(point.apply(predictions))
    rows = []
    for cause in causes:
        of_cause = chosen & (predictions.causes == cause)
        patients = len(np.unique(predictions.groups()[of_cause]))
        row: list[Any] = [cause, int(of_cause.sum()), patients, int(right[of_cause].sum())]
        if positive:
            subset = predictions.subset(of_cause | ~truth)
            found = evaluate_predictions(subset, point, positive, metrics["bootstrap"])["metrics"]
            row += [_with_interval(found["recall"], 3), _with_interval(found["roc_auc"], 3)]
        else:
            row.append(number(float(right[of_cause].mean())))
        rows.append(row)
    last = ["found", "recall", "ROC AUC"] if positive else ["decided rightly", "share"]
    return {"head": ["cause", "images", "patients", *last], "rows": rows}


def _origin(run: Run, data: XrayDataset, metrics: Mapping[str, Any]) -> list[list[str]]:
    """What is needed to make it again."""
    point, made = metrics["operating_point"], run.made
    intervals = f"{metrics['bootstrap']} bootstrap replicates by patient, seed {metrics['seed']}"
    return [
        ["operating point", f"rule {point['rule']}. {words.rule_text(metrics)}"],
        ["chosen on", f"split '{point['chosen_on']}' of the run's training data"],
        ["intervals", intervals if metrics["bootstrap"] else "none"],
        ["data set", f"{metrics['data']}, fingerprint {data.manifest.digest}"],
        ["trained on", f"{run.facts.path}, fingerprint {run.facts.digest}"],
        ["trained by", " ".join(map(str, made.get("command") or "-"))],
        ["started", made.get("started", "-")],
        ["commit", made.get("git_commit") or "-"],
        ["machine", f"{made.get('machine', '-')}, Python {made.get('python', '-')}"],
        ["versions", ", ".join(f"{name} {version}" for name, version in made.get("versions", {}).items()) or "-"],
        ["preset", run.preset or "-"],
    ]

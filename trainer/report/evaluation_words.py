"""The results of an evaluation in sentences, for the page, the terminal and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cxr.page import number
from trainer.evaluation.metrics import LEVEL
from trainer.evaluation.operating_point import parse_rule

LEVEL_TEXT = f"{100 * LEVEL:g} %"
"""Level of the intervals."""
NAMES = {"roc_auc": "ROC AUC", "pr_auc": "PR AUC", "f1": "F1", "brier": "Brier score"}
EXPLANATIONS = {
    "accuracy": "Share of all images decided rightly. Misleading where one label is much more frequent.",
    "precision": "Share of the images called positive that are (positive predictive value). Falls where the finding "
    "is rarer than here.",
    "recall": "Share of the images with the finding that are called positive (sensitivity).",
    "specificity": "Share of the images without the finding that are called negative.",
    "f1": "Precision and recall in one number: their harmonic mean.",
    "roc_auc": "Chance that an image with the finding gets a higher score than one without. 0.5 is guessing, 1 is "
    "perfect. No threshold is involved.",
    "pr_auc": "Mean precision over all thresholds. Guessing gets the share of images that have the finding.",
    "brier": "Mean squared error of the probabilities. Lower is better; 0 is perfect.",
    "calibration_error": "Mean distance between the probability given and how often it was true. Lower is better; 0 "
    "is perfect. Of few images it is too high by chance.",
}
SHIFT_COLUMNS = ("accuracy", "recall", "specificity", "roc_auc", "calibration_error")
"""Metrics in the table of the shifts."""
SUBGROUP_COLUMNS = ("recall", "specificity", "roc_auc")
"""Metrics in the table of the subgroups."""
DROP_TO_WARN_OF = 0.05
"""Loss of a metric under a shift that the report warns of."""


def metric_name(name: str) -> str:
    """A metric as it is written in text."""
    return NAMES.get(name, name.replace("_", " "))


def interval(values: Mapping[str, float | None], digits: int = 3) -> str:
    """`0.95 to 0.98`; "-" where undefined."""
    low, high = values["low"], values["high"]
    return "-" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"


def of_hundred(share: float) -> str:
    """A share as a number of 100, with a decimal where a whole number would claim all or none, or say too little."""
    whole, tenths = round(100 * share), round(100 * share, 1)
    if 2 <= whole <= 98 or abs(100 * share - whole) < 1e-9:
        return f"{whole}"
    if tenths in (0, 100):
        return "more than 99.9" if tenths else "less than 0.1"
    return f"{tenths:g}"


def _share(values: Mapping[str, Any], complement: bool = False) -> tuple[str, str]:
    """A share, or what is missing of 1, as a number of 100; and its interval in parentheses, if it has one."""
    value, low, high = (values[name] for name in ("value", "low", "high"))
    if complement:
        value, low, high = (None if one is None else 1 - one for one in (value, high, low))
    between = "" if low is None or high is None else f" ({LEVEL_TEXT} interval {of_hundred(low)} to {of_hundred(high)})"
    return of_hundred(value), between


def headline(metrics: Mapping[str, Any]) -> list[str]:
    """The result in sentences for a clinician; the first is the headline."""
    values = metrics["metrics"]
    if metrics["task"] == "binary":
        return _binary_headline(metrics)
    if metrics["task"] == "multi-class":
        right, between = _share(values["accuracy"])
        parts = [
            f"{of_hundred(found['recall']['value'])} of 100 {label}"
            for label, found in metrics["per_label"].items()
            if found["recall"]["value"] is not None
        ]
        return [
            f"Of 100 images it gives {right} the right label{between}.",
            f"Of the images of each label it recognises {', '.join(parts)}.",
        ]
    lines = []
    if values["recall"]["value"] is not None:
        found, between = _share(values["recall"])
        lines.append(f"on average over the labels it finds {found} of 100 findings{between}")
    if values["specificity"]["value"] is not None:
        alarms, between = _share(values["specificity"], complement=True)
        lines.append(f"it wrongly reports a finding on {alarms} of 100 images without it{between}")
    sentence = "; ".join(lines) or "no label is both present and absent in this split, so no figure is defined"
    return [sentence[0].upper() + sentence[1:] + "."]


def _binary_headline(metrics: Mapping[str, Any]) -> list[str]:
    label = metrics["positive"]
    recall, specificity, precision = (metrics["metrics"][name] for name in ("recall", "specificity", "precision"))
    if recall["value"] is None:
        first = f"No image of this split has {label}, so its recall is undefined."
    else:
        first = f"Of 100 images with {label} it finds {''.join(_share(recall))}."
    if specificity["value"] is None:
        first += f" Every image of this split has {label}, so its rate of false alarms is undefined."
    else:
        first += f" Of 100 images without, it wrongly calls {''.join(_share(specificity, complement=True))}."
    if None in (recall["value"], specificity["value"], precision["value"]):
        return [first]
    share = prevalence(metrics)[label]
    rare = predictive_value(recall["value"], specificity["value"], 0.1)
    second = (
        f"When it says {label}, it is right in {of_hundred(precision['value'])} of 100 cases here, where "
        f"{of_hundred(share)} of 100 images have it."
    )
    if share > 0.12 and rare is not None:
        second += f" Where only 10 of 100 have it, it would be right in about {of_hundred(rare)} of 100."
    return [first, second]


def predictive_value(recall: float, specificity: float, share: float) -> float | None:
    """Precision where a share of the images has the finding, by Bayes' rule; None where nothing is called positive."""
    true, false = recall * share, (1 - specificity) * (1 - share)
    return true / (true + false) if true + false > 0 else None


def prevalence(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Share of the images that have each label, from the confusion matrix."""
    found = metrics["confusion"]
    if isinstance(found, Mapping):
        return {label: sum(table[1]) / metrics["images"] for label, table in found.items()}
    return {label: sum(row) / metrics["images"] for label, row in zip(metrics["labels"], found, strict=True)}


def subgroup_table(metrics: Mapping[str, Any]) -> tuple[list[list[str]], list[str]]:
    """(rows, head) of the results by subgroup, with intervals."""
    rows = []
    for group, values in metrics["subgroups"].items():
        for value, found in values.items():
            cells = ["too few images", "", ""]
            if found["metrics"]:
                entries = [found["metrics"][name] for name in SUBGROUP_COLUMNS]
                cells = [f"{number(entry['value'], 3)} ({interval(entry, 3)})" for entry in entries]
            rows.append([f"{group} {value}", str(found["images"]), str(found["patients"]), *cells])
    return rows, ["subgroup", "images", "patients", *map(metric_name, SUBGROUP_COLUMNS)]


def rule_text(metrics: Mapping[str, Any]) -> str:
    """What decides, and by which rule it was chosen."""
    point = metrics["operating_point"]
    name, value = parse_rule(point["rule"])
    if name == "argmax":
        return "The label of the greatest probability is chosen."
    chosen = ", ".join(f"{label} from {threshold:.4g}" for label, threshold in point["thresholds"].items())
    if name == "youden":
        why = "where recall + specificity is greatest (Youden's index)"
    elif name == "recall":
        why = f"the highest that still finds {of_hundred(value)} of 100"
    elif name == "specificity":
        why = f"the lowest that wrongly calls at most {of_hundred(1 - value)} of 100"
    else:
        why = "given by hand"
    origin = "" if name == "threshold" else f", chosen on split '{point['chosen_on']}'"
    return f"Threshold on the probability: {chosen}; {why}{origin}."


def shift_sentence(metrics: Mapping[str, Any]) -> tuple[str, bool]:
    """What the worst shifts do, and whether to warn of it."""
    worst = metrics["worst"]
    drops = [(worst[name]["drop"], name) for name in ("recall", "specificity", "roc_auc") if worst.get(name)]
    parts = [
        f"{metric_name(name)} falls by {100 * drop:.1f} points, to {worst[name]['value']:.3f} ({worst[name]['shift']})"
        for drop, name in sorted(drops, reverse=True)
        if drop > 0.0005
    ]
    if not parts:
        return "No shift makes recall, specificity or ROC AUC worse.", False
    warn = max(drops)[0] > DROP_TO_WARN_OF
    return ("At worst " + "; ".join(parts) + ".", warn)


def split_cautions(metrics: Mapping[str, Any], same_data: bool) -> list[str]:
    """Why the figures of this split may be better than what is to be expected elsewhere.

    `same_data`: it was evaluated on the data set that the run was trained on.
    """
    split, point = metrics["split"], metrics["operating_point"]
    cautions = []
    if same_data and split == "train":
        cautions.append("These are the images that the model was trained on: the figures say nothing about new ones.")
    elif same_data and split == "val":
        cautions.append(
            "This split chose the best epoch: figures of a split that took no part in training are more honest."
        )
    if same_data and point["chosen_on"] == split and parse_rule(point["rule"])[0] not in ("argmax", "threshold"):
        cautions.append(
            "The operating point was chosen on this very split, so the figures that depend on it, and their "
            "intervals, are optimistic."
        )
    few = [label for label, share in prevalence(metrics).items() if 0 < share * metrics["images"] < 30]
    if few:
        cautions.append(f"Fewer than 30 images have the label {', '.join(few)}: its figures are uncertain.")
    return cautions

"""`cxr compare`: runs side by side, by what `cxr evaluate` found, and whether they can be compared at all."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr.command import Command, Given
from cxr.console import EXIT_OK, run_command
from cxr.errors import DatasetError, InputError
from cxr.files import read_json
from cxr.kinds import Choice, Several, Text, directory
from cxr.options import Options, option, options

_DESCRIPTION = """\
Compares runs by what `cxr evaluate` found on a split. Lines below the table say where the figures cannot be compared:
other data sets, other images, thresholds by other rules."""
_EPILOG = """\
`worst specificity` and `worst ROC AUC` are those under the shift of the images that hurts most.

examples:
  cxr compare runs
  cxr compare runs/robust runs/cnn --split test --sort worst_specificity
  cxr compare runs --format markdown > comparison.md
"""
METRICS = {
    "accuracy": "accuracy", "precision": "precision", "recall": "recall", "specificity": "specificity", "f1": "F1",
    "roc_auc": "ROC AUC", "pr_auc": "PR AUC", "worst_specificity": "worst specificity",
    "worst_roc_auc": "worst ROC AUC",
}  # fmt: skip
"""Columns that are measured, better the higher, and their headings."""
COLUMNS = {
    "run": "run", "model": "model", "preset": "preset", "image_size": "pixels", "best_epoch": "best epoch",
    "epochs": "of epochs", **METRICS,
}  # fmt: skip
FORMATS = ("table", "csv", "markdown", "json")
_WORST = "worst_"


@options
class CompareOptions(Options):
    """What `cxr compare` compares."""

    runs: tuple[str, ...] = option(
        Several(directory("RUN"), metavar="RUN"), "directories of runs, or folders that hold some", positional=True
    )
    split: str = option(Text(metavar="NAME"), "split they were evaluated on", default="val")
    sort: str = option(
        Choice(("run", *METRICS), "COLUMN"), f"best first by one of {', '.join(METRICS)}, or by run",
        default="roc_auc",
    )  # fmt: skip
    format: str = option(Choice(FORMATS), "of the output", default="table")


def run(given: Given) -> int:
    """Prints a comparison of the runs of a command line."""
    asked = given.make(CompareOptions)
    compared, notes = compare_runs(asked.runs, asked.split, asked.sort)
    if not compared:
        raise InputError("\n".join(["there is nothing to compare", *notes]))
    print(_show(compared, asked.format))
    for note in notes:
        print(f"note: {note}", file=sys.stdout if asked.format == "table" else sys.stderr)
    return EXIT_OK


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """A run, evaluated on a split.

    Attributes:
      path: its directory.
      row: by name of `COLUMNS`; None where something is unknown or undefined.
      same: what must be equal in two runs for their figures to be comparable: by the difference that it would be, the
        value and how it is shown.
      outdated: whether the run has other weights than those that were evaluated.
    """

    path: Path
    row: dict[str, Any]
    same: Mapping[str, tuple[str, str]]
    outdated: bool = False


def compare_runs(
    folders: Sequence[str | Path], split: str = "val", sort: str = "roc_auc"
) -> tuple[list[ComparedRun], list[str]]:
    """The runs that were evaluated on a split, best first; and notes on the other runs and on what is not comparable.

    Folders are runs, or hold some; a run named twice counts once. `sort` is one of `METRICS`, best first and unknown
    last; or `run`, by name. Raises InputError where a folder does not exist or holds no run.
    """
    from trainer.run import find_runs

    paths: dict[Path, Path] = {}
    for folder in folders:
        below = list(find_runs(folder))
        if not below:
            missing = "does not exist" if not Path(folder).exists() else "is no run and holds none"
            raise InputError(f"{folder} {missing}; expected a directory of `cxr train --run`, or one above such")
        paths.update({path.resolve(): path for path in reversed(below)})
    compared, notes = [], []
    for path in sorted(paths.values()):
        try:
            one = _read(path, split)
        except DatasetError as error:
            notes.append(str(error))
            continue
        if one is None:
            notes.append(f"{path} has not been evaluated on {split}: cxr evaluate --run {path} --split {split}")
            continue
        compared.append(one)
        if one.outdated:
            notes.append(f"{path} has newer weights than those that were evaluated; evaluate it again")
    count = Counter(one.row["run"] for one in compared)
    for one in compared:
        if count[one.row["run"]] > 1:
            one.row["run"] = str(one.path)

    def order(one: ComparedRun) -> tuple[bool, Any]:
        value = one.row[sort]
        return (value is None, value if sort == "run" or value is None else -value)

    return sorted(compared, key=order), notes + _differences(compared)


def _read(path: Path, split: str) -> ComparedRun | None:
    """A run, or None where it has not been evaluated on the split. The run's model is not needed, nor Keras."""
    from trainer.run import RUN_NAME, weights_digest

    evaluation = path / "evaluation" / split
    if not (evaluation / "metrics.json").exists():
        return None
    run, found = read_json(path / RUN_NAME), read_json(evaluation / "metrics.json")
    try:
        config, data, size = run["config"], run["data"], run["config"]["image_size"]
        outcome, worst = run.get("outcome", {}), found["worst"] or {}
        row = {
            "run": path.resolve().name,
            "model": config["model"],
            "preset": run["preset"],
            "image_size": "x".join(map(str, size)) if isinstance(size, list) else size,
            "best_epoch": outcome.get("best_epoch"),
            "epochs": outcome.get("epochs"),
        }
        for name in METRICS:
            measured = worst if name.startswith(_WORST) else found["metrics"]
            row[name] = measured.get(name.removeprefix(_WORST), {}).get("value")
        texts = {
            "different labels": ", ".join(found["labels"]),
            "figures of different labels": found["positive"] or "mean over labels",
            "thresholds chosen by different rules": found["operating_point"]["rule"],
            "shifts act at different image sizes": str(row["image_size"]),
        }
        same = {
            "trained on different data sets": (data["digest"], data["path"]),
            f"{split} has different images": _images(evaluation, found),
            **{difference: (text, text) for difference, text in texts.items()},
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{evaluation / 'metrics.json'} or {path / RUN_NAME} is damaged: {error!r}") from error
    return ComparedRun(path, row, same, found.get("weights") not in (None, weights_digest(path)))


def _images(evaluation: Path, found: Mapping[str, Any]) -> tuple[str, str]:
    """What tells the images of an evaluation from others, a digest of their paths and labels; and how many they are."""
    shown = f"{found['images']} images of {found['patients']} patients in {found['data']}"
    try:
        with open(evaluation / "predictions.csv", encoding="utf-8", newline="") as file:
            rows = sorted((row["path"], row.get("label", row.get("labels")) or "") for row in csv.DictReader(file))
    except (OSError, KeyError, ValueError, csv.Error):
        return shown, shown
    return hashlib.sha256(repr(rows).encode()).hexdigest(), shown


def _differences(compared: Sequence[ComparedRun]) -> list[str]:
    """A note for everything that makes figures incomparable: who differs in what."""
    notes = []
    for what in compared[0].same if compared else ():
        groups: dict[str, list[ComparedRun]] = {}
        for one in compared:
            groups.setdefault(one.same[what][0], []).append(one)
        if len(groups) > 1:
            named = [(", ".join(one.row["run"] for one in group), group[0].same[what][1]) for group in groups.values()]
            notes.append(f"not comparable, {what}: {'; '.join(f'{names}: {shown}' for names, shown in named)}")
    return notes


def _show(compared: Sequence[ComparedRun], form: str) -> str:
    """The comparison in one of FORMATS."""
    if form == "json":
        return json.dumps([{**one.row, "path": str(one.path)} for one in compared], indent=2, ensure_ascii=False)
    if form == "csv":
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(one.row for one in compared)
        return text.getvalue().rstrip("\n")
    if form == "markdown":
        return _tabulate(compared, "pipe", "**{}**", "{}")
    footnote = "\n* best of its column" if len(compared) > 1 else ""
    return _tabulate(compared, "simple", "*{}", " {}") + footnote


def _tabulate(compared: Sequence[ComparedRun], style: str, best_cell: str, other_cell: str) -> str:
    """A table of the columns of which anything is known, with the best value of each metric marked."""
    from tabulate import tabulate

    known = {name: [one.row[name] for one in compared if one.row[name] is not None] for name in COLUMNS}
    names = [name for name in COLUMNS if known[name]]

    def cell(value: Any, name: str) -> str:
        if value is None:
            return "-"
        if name not in METRICS:
            return str(value)
        is_best = len(compared) > 1 and value == max(known[name])
        return (best_cell if is_best else other_cell).format(f"{value:.4f}")

    rows = [[cell(one.row[name], name) for name in names] for one in compared]
    align = ["left" if name in ("run", "model", "preset") else "right" for name in names]
    return tabulate(rows, [COLUMNS[name] for name in names], style, disable_numparse=True, colalign=align)


COMMAND = Command("compare", _DESCRIPTION, run, CompareOptions, _EPILOG)
main = COMMAND.main

if __name__ == "__main__":
    sys.exit(run_command(main))

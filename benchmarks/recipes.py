"""Recipes side by side: validation AUC, and what is left of it under the shift suite.

    python benchmarks/recipes.py --data DIR --runs DIR [--seeds 0,1,2] [--json FILE] NAME...
    python benchmarks/recipes.py --data DIR --runs DIR --from FILE NAME...

A NAME is a preset, or an entry of the JSON object in FILE: name to options of `cxr train`. Each is trained and
evaluated on the validation split in a process of its own, as `cxr train` and `cxr evaluate` do it; runs that are there
are kept, so an interrupted comparison goes on when it is run again. Prints a table of means over the seeds with their
lowest and highest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--runs", required=True, type=Path)
    parser.add_argument("--seeds", default="0,1,2", type=lambda text: [int(seed) for seed in text.split(",")])
    parser.add_argument("--from", dest="file", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    recipes = json.loads(arguments.file.read_text()) if arguments.file else {}
    rows, found = [], {}
    for name in arguments.names:
        figures = []
        for seed in arguments.seeds:
            run = arguments.runs / f"{name}-{seed}"
            make(run, arguments.data, recipes.get(name), name, seed)
            figures.append(read(run))
        found[name] = figures
        rows.append([name, *(summary([figure[key] for figure in figures]) for key in KEYS)])
        print(tabulate(rows, ["recipe", *KEYS], disable_numparse=True), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"seeds": arguments.seeds, "recipes": found}, indent=2) + "\n")


KEYS = (
    "val AUC", "worst AUC", "specificity", "worst specificity", "recall", "worst recall", "drop of AUC",
    "drop of specificity", "images/s",
)  # fmt: skip


def make(run: Path, data: Path, recipe: dict[str, Any] | None, name: str, seed: int) -> None:
    """Trains and evaluates a run, as far as that was not done."""
    if not (run / "history.csv").exists() or '"finished"' not in (run / "run.json").read_text():
        command = ["train", "--data", data, "--run", run, "--seed", seed, "--quiet"]
        if (run / "run.json").exists():
            command = ["train", "--run", run, "--resume", "--quiet"]
        elif recipe is None:
            command += ["--preset", name]
        else:
            file = run.with_suffix(".json")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(recipe))
            command += ["--config", file]
        cxr(*command)
    if not (run / "evaluation" / "val" / "metrics.json").exists():
        cxr("evaluate", "--run", run, "--data", data, "--quiet")


def cxr(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "cxr", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def read(run: Path) -> dict[str, float]:
    """The figures of one run."""
    metrics = json.loads((run / "evaluation" / "val" / "metrics.json").read_text())
    values, worst = metrics["metrics"], metrics["worst"]
    rates = [float(row.split(",")[place]) for place, row in _rates(run)]
    return {
        "val AUC": values["roc_auc"]["value"],
        "worst AUC": worst["roc_auc"]["value"],
        "specificity": values["specificity"]["value"],
        "worst specificity": worst["specificity"]["value"],
        "recall": values["recall"]["value"],
        "worst recall": worst["recall"]["value"],
        "drop of AUC": worst["roc_auc"]["drop"],
        "drop of specificity": worst["specificity"]["drop"],
        "images/s": sum(rates) / len(rates),
        "worst shift": worst["specificity"]["shift"],
    }


def _rates(run: Path) -> list[tuple[int, str]]:
    head, *rows = (run / "history.csv").read_text().splitlines()
    return [(head.split(",").index("images_per_second"), row) for row in rows]


def summary(values: list[float]) -> str:
    """Mean, and lowest to highest."""
    mean = sum(values) / len(values)
    if mean > 2:
        return f"{mean:.0f}"
    return f"{mean:.4f} ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else f"{mean:.4f}"


if __name__ == "__main__":
    main()

"""Trains the best configurations of a search again over several seeds, which shows how much of a score was luck."""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr.console import progress_bar
from cxr.errors import InputError, OutputError, TrainingError
from cxr.files import read_json, write_json
from tfrecords.dataset import open_dataset
from trainer.presets import PRESETS
from trainer.run import RUN_NAME, open_run
from trainer.train import choose_config
from trainer.train_config import TrainConfig
from trainer.training.stopping import Stopped, stop_on_signals
from tuner.cluster.processes import end_processes, last_lines
from tuner.objectives import metric_values
from tuner.results import SearchResult

FINAL_NAME = "final.json"
METRICS = {
    "roc_auc": "AUC", "worst_roc_auc": "worst AUC",
    "balanced_accuracy": "balanced accuracy", "worst_balanced_accuracy": "worst",
    "specificity": "specificity", "worst_specificity": "worst",
    "recall": "recall", "worst_recall": "worst",
}  # fmt: skip
"""Metrics that are compared, with their headings; `worst` is the lowest value under any shift."""


def retrain_best(
    search: SearchResult, count: int, seeds: Sequence[int] = (0, 1, 2), *, split: str = "val",
    baselines: Sequence[str] = (), epochs: int | None = None, data: str | None = None, quiet: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """Trains the best configurations again, one run after the other, each in a process of its own, and evaluates them.

    Finished runs are kept, so that it continues where it was stopped.

    Args:
      search: with trials that have a score.
      count: number of the best configurations; one that Hyperband trained several times counts once.
      seeds: of the runs of each configuration.
      split: to evaluate on, with the shift suite.
      baselines: presets of `cxr train`, or JSON files of its options, that are trained and evaluated as well.
      epochs: of the runs of the search's best; None for the search's own.
      data: directory of the data set; None for the search's own.
      quiet: no progress bar.
      say: called with a line for people as each run ends.

    Returns:
      What PROJECT/final/final.json holds: `seeds`, `split`, and `found`: by configuration, a dictionary of `METRICS`
      for each seed.

    Raises:
      InputError: no trial has a score, or a baseline is neither a preset nor a file.
      OutputError: a run exists that was trained with other settings.
      TrainingError: a run failed.
      Stopped: Ctrl-C or SIGTERM; the next call continues.
    """
    best = search.distinct()[:count]
    if not best:
        raise InputError(f"the search in {search.project} has no trial with a score yet")
    recipes: dict[str, TrainConfig] = {}
    for trial in best:
        most = epochs or max(trial.epochs, search.settings["epochs"])
        recipes[f"trial {trial.id}"] = TrainConfig.from_json({**trial.config, "epochs": most})
    for baseline in baselines:
        known = baseline in PRESETS
        if not known and not Path(baseline).is_file():
            expected = f"a preset ({', '.join(PRESETS)}) or a JSON file of options"
            raise InputError(f"--baseline {baseline}: expected {expected}")
        name = baseline if known else Path(baseline).stem
        if name in recipes:
            raise InputError(f"--baseline {baseline}: there is a configuration '{name}' already; rename the file")
        recipes[name], _ = choose_config(baseline if known else None, None if known else baseline, {})
    folder = search.project / "final"
    found: dict[str, list[dict[str, float]]] = {name: [] for name in recipes}
    jobs = [(name, seed) for name in recipes for seed in seeds]
    for name, seed in progress_bar(jobs, "final runs", quiet, unit="run"):
        run = folder / f"{name.replace(' ', '-')}-seed{seed}"
        config = dataclasses.replace(recipes[name], seed=seed)
        _make(run, config, data or search.settings["data"], split, search.settings.get("positive"))
        values = _read(run, split)
        found[name].append(values)
        say(f"{name}, seed {seed}: AUC {values['roc_auc']:.4f}, worst {values['worst_roc_auc']:.4f}")
    finals = {"seeds": list(seeds), "split": split, "found": found}
    try:
        write_json(folder / FINAL_NAME, finals)
    except OSError as error:
        raise OutputError(f"{folder / FINAL_NAME} cannot be written: {error.strerror or error}") from error
    return finals


def read_retrained(project: Path) -> dict[str, Any] | None:
    """The last result of `retrain_best`; None where there is none."""
    path = project / "final" / FINAL_NAME
    return read_json(path) if path.exists() else None


def retrained_rows(finals: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: mean over the seeds, lowest and highest value."""
    rows = [
        [name, *(_summary([run[metric] for run in runs]) for metric in METRICS)]
        for name, runs in finals["found"].items()
    ]
    return ["configuration", *METRICS.values()], rows


def _make(run: Path, config: TrainConfig, data: str, split: str, positive: str | None) -> None:
    """Trains and evaluates a run as `cxr train` and `cxr evaluate` do, unless that was done."""
    run.parent.mkdir(parents=True, exist_ok=True)
    digest = open_dataset(data).manifest.digest
    begun = (run / RUN_NAME).exists()
    if begun:
        there = open_run(run)
        if there.config != config.resolved() or there.facts.digest != digest:
            raise OutputError(f"{run} was trained with other settings, or on other data; remove it to train it again")
    if not begun or there.state != "finished":
        command = ["--run", str(run), "--resume"]
        if not begun:
            file = run.with_suffix(".json")
            write_json(file, config.to_json())
            command = ["--data", data, "--run", str(run), "--config", str(file)]
            command += ["--positive", positive] if positive else []
        _call("trainer.train", [*command, "--quiet"], run)
    metrics = run / "evaluation" / split / "metrics.json"
    if not metrics.exists():
        _call("trainer.evaluate", ["--run", str(run), "--data", data, "--split", split, "--quiet"], run)


def _call(module: str, arguments: list[str], run: Path) -> None:
    """Runs a command in a process of its own, which ends with this one."""
    log = run.with_suffix(".log")
    with open(log, "ab") as output, stop_on_signals() as stop:
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            while process.poll() is None and not stop:
                time.sleep(0.1)
        finally:
            end_processes([process])
        if stop:
            raise Stopped("stopped; the same command continues", stop.signal)
    if process.returncode:
        said = last_lines(log)
        raise TrainingError(f"{run} failed with exit status {process.returncode}; its log, {log}, ends with:\n{said}")


def _read(run: Path, split: str) -> dict[str, float]:
    found = read_json(run / "evaluation" / split / "metrics.json")
    values = [metric_values(each["metrics"]) for each in (found, *found["shifts"].values())]
    names = ("roc_auc", "balanced_accuracy", "specificity", "recall")
    worst = {f"worst_{name}": min(each[name] for each in values) for name in names}
    return {**{name: values[0][name] for name in names}, **worst}


def _summary(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.fmean(values):.4f} ({min(values):.4f}-{max(values):.4f})"

"""`cxr evaluate`: what a run is worth on a split, under shifts of the images too, and a report of it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr.command import Command, Given
from cxr.console import EXIT_OK, progress_bar, run_command
from cxr.kinds import Flag, Text, Whole, directory
from cxr.machine import load_tensorflow_quietly
from cxr.options import Options, option, options
from tfrecords.format.choices import check_split
from tfrecords.streaming.cache import keep_images

if TYPE_CHECKING:
    import keras

    from tfrecords.dataset import XrayDataset
    from trainer.evaluation.operating_point import OperatingPoint
    from trainer.evaluation.predictions import Predictions
    from trainer.run import Run

_DESCRIPTION = """\
Evaluates a run on a split: metrics with 95 % intervals resampled by patient, the same under shifts of the images
(compression, blur, exposure, noise), curves, the worst mistakes, and where the model looked.
What decides is chosen on validation once and only applied elsewhere."""
_EPILOG = """\
writes RUN/evaluation/SPLIT/: metrics.json, predictions.csv, report.html (one file, to be handed on), and the same to
TensorBoard.

examples:
  cxr evaluate --run runs/robust --data data/cxr --split test
  cxr evaluate --run runs/robust --data data/cxr --split val --operating-point recall=0.98
"""


@options
class EvaluateOptions(Options):
    """What `cxr evaluate` evaluates, and how."""

    run: str = option(directory("RUN"), "directory of the run")
    data: str | None = option(directory(), "data set to evaluate on", default=None, unset="the run's own")
    split: str = option(Text(metavar="NAME"), "split of it", default="val")
    operating_point: str | None = option(
        Text(metavar="RULE"),
        "what counts as positive: youden, recall=R, specificity=S, threshold=T, or argmax; chosen on the run's own "
        "validation split, and kept in the run for later evaluations and predictions",
        default=None, unset="what the run has already, else youden; argmax for more than two classes",
    )  # fmt: skip
    shifts: bool = option(Flag(), "leave the shift suite out, which takes most of the time", default=True)
    bootstrap: int = option(Whole(0), "replicates of the intervals", default=1000)
    output: str | None = option(directory(), "where to write", default=None, unset="RUN/evaluation/SPLIT")
    quiet: bool = option(Flag(), "no progress bar", default=False)


def run(given: Given) -> int:
    """Evaluates the run of a command line, and writes its report."""
    asked = given.make(EvaluateOptions)

    from tfrecords.dataset import open_dataset
    from trainer.run import open_run

    trained = open_run(asked.run)
    data = open_dataset(asked.data or trained.facts.path)
    output = Path(asked.output) if asked.output else None
    check_evaluation(trained, data, asked.split)
    load_tensorflow_quietly()
    metrics = evaluate(
        trained, data, asked.split, rule=asked.operating_point, shifts=asked.shifts, bootstrap=asked.bootstrap,
        output=output, quiet=asked.quiet,
    )  # fmt: skip
    print(summary_text(metrics))
    report = (output or trained.evaluation(asked.split)) / "report.html"
    print(f"\nopen it:   {report}\nwatch it:  cxr board {trained.root}")
    return EXIT_OK


def check_evaluation(run: Run, data: XrayDataset, split: str) -> None:
    """Checks what can be checked before TensorFlow is loaded.

    Raises InputError for no such split or data that do not fit the run, DatasetError for a run without weights.
    """
    run.facts.check_same_kind(data)
    check_split(data.manifest, split)
    run.check_weights()


@keep_images()
def evaluate(
    run: Run, data: XrayDataset, split: str = "val", *, rule: str | None = None, shifts: bool = True,
    bootstrap: int = 1000, output: Path | None = None, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Evaluates a run, and writes metrics, predictions, report and TensorBoard's views.

    Args:
      run: with a finished epoch.
      data: of the run's labels; need not be what it was trained on.
      rule: of the operating point, see `trainer.evaluation.operating_point`; None is the run's own, or the task's
        usual one.
      shifts: evaluate under every shift of `trainer.evaluation.shifts` too.
      bootstrap: replicates of the intervals.
      output: folder; None is the run's own for the split.

    Returns:
      What `metrics.json` holds, see `trainer.evaluation.metrics.evaluate_predictions`; besides `run`, `split`, `data`,
      `subgroups` (`evaluate_subgroups`), `shifts` by name and `worst` of them.

    Raises:
      InputError: no such split, data that do not fit the run, or a rule that cannot be met.
      DatasetError: the run has no weights, or the data set is damaged.
    """
    from cxr.errors import OutputError
    from cxr.files import write_json
    from trainer.evaluation.metrics import evaluate_predictions
    from trainer.evaluation.subgroups import evaluate_subgroups
    from trainer.facts import VALIDATION
    from trainer.report import write_report
    from trainer.training.trained import load_model
    from trainer.training.validation import predict_split, predict_validation

    check_evaluation(run, data, split)
    folder = output or run.evaluation(split)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror or error}") from error
    model = load_model(run)
    predictions = predict_split(model, data, split, run.config)
    own_validation = data.manifest.digest == run.facts.digest and split == VALIDATION

    def validation() -> Predictions:
        return predictions if own_validation else predict_validation(run, model, data)

    point = choose_operating_point(run, rule, validation)
    metrics = {
        "run": run.name, "split": split, "data": str(data.root), "data_digest": data.manifest.digest,
        "weights": run.weights_digest(),
        **evaluate_predictions(predictions, point, run.facts.positive, bootstrap),
        "subgroups": evaluate_subgroups(predictions, point, run.facts.positive, bootstrap),
        "shifts": None, "worst": None,
    }  # fmt: skip
    if shifts:
        metrics.update(shift_suite(run, model, data, split, point, metrics["metrics"], quiet))
    predictions.save_csv(folder / "predictions.csv", point.apply(predictions))
    write_json(folder / "metrics.json", metrics)
    write_report(folder, run, data, model, predictions, point, metrics)
    return metrics


def choose_operating_point(run: Run, rule: str | None, validation: Callable[[], Predictions]) -> OperatingPoint:
    """The run's own; chosen on validation and stored where its weights have none, or another rule is wanted."""
    from cxr.errors import DatasetError
    from trainer.evaluation.operating_point import OperatingPoint, read_operating_point, write_operating_point

    weights = run.weights_digest()
    with contextlib.suppress(DatasetError):  # damaged: it is written anew
        stored = read_operating_point(run.operating_point, weights)
        if stored is not None and rule in (None, stored.rule):
            return stored
    facts, wanted = run.facts, rule or "auto"
    point = OperatingPoint.given(wanted, facts.labels, facts.multi_label, facts.positive)
    point = point or OperatingPoint.choose(validation(), wanted, facts.positive)
    write_operating_point(run.operating_point, point, weights)
    return point


def shift_suite(
    run: Run, model: keras.Model, data: XrayDataset, split: str, point: OperatingPoint, baseline: dict[str, Any],
    quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Metrics under each shift at the same operating point, and the worst of them.

    Returns `shifts`: by name, `{"metrics": {name: {"value": ...}}}`; and `worst`: by metric.
    """
    from trainer.evaluation.metrics import evaluate_predictions
    from trainer.evaluation.shifts import SHIFTS, apply_shift, suite_summary
    from trainer.training.validation import predict_split

    found = {}
    for name in progress_bar(list(SHIFTS), "shifts", quiet=quiet, unit="shift", leave=False):
        shifted = predict_split(model, data, split, run.config, change=partial(apply_shift, name))
        found[name] = evaluate_predictions(shifted, point, run.facts.positive, bootstrap=0)["metrics"]
    return {
        "shifts": {name: {"metrics": values} for name, values in found.items()},
        "worst": suite_summary(baseline, found),
    }


def summary_text(metrics: dict[str, Any]) -> str:
    """The metrics as tables for the terminal."""
    from tabulate import tabulate

    from cxr.page import number
    from trainer.report.evaluation_words import (
        LEVEL_TEXT,
        SHIFT_COLUMNS,
        interval,
        metric_name,
        shift_sentence,
        subgroup_table,
    )

    values = metrics["metrics"]
    of = f" of {metrics['positive']}" if metrics["positive"] else ", mean over labels"
    head = ["metric", "value", f"{LEVEL_TEXT} interval"]
    rows = [[metric_name(name), number(one["value"], 4), interval(one, 4)] for name, one in values.items()]
    text = [
        f"{metrics['run']} on {metrics['split']} of {metrics['data']}: {metrics['images']} images of "
        f"{metrics['patients']} patients{of}; operating point {metrics['operating_point']['rule']}",
        tabulate(rows, head, disable_numparse=True, colalign=("left", "right", "left")),
    ]
    if metrics.get("subgroups"):
        text.append(tabulate(*subgroup_table(metrics), disable_numparse=True))
    if metrics["shifts"]:
        found = {"(unchanged)": values, **{shift: one["metrics"] for shift, one in metrics["shifts"].items()}}
        rows = [[shift, *(number(one[name]["value"], 4) for name in SHIFT_COLUMNS)] for shift, one in found.items()]
        text.append(tabulate(rows, ["shift", *map(metric_name, SHIFT_COLUMNS)], disable_numparse=True))
        text.append(shift_sentence(metrics)[0])
    return "\n\n".join(text)


COMMAND = Command("evaluate", _DESCRIPTION, run, EvaluateOptions, _EPILOG, needs="train")
main = COMMAND.main

if __name__ == "__main__":
    sys.exit(run_command(main))

"""One trial: trains it with the trainer's own functions, reports each epoch to the chief, and computes the score."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from cxr.errors import BusyError, CxrError, DatasetError, TrainingError
from tfrecords.dataset import XrayDataset
from tfrecords.streaming.cache import keep_images
from trainer.evaluate import choose_operating_point, shift_suite
from trainer.evaluation.metrics import evaluate_predictions
from trainer.facts import VALIDATION, DataFacts
from trainer.run import RUN_NAME, Run, create_run, locked, open_run
from trainer.train_config import MONITORS, TrainConfig
from trainer.training.inputs import training_steps
from trainer.training.loop import train
from trainer.training.stopping import Stopped
from trainer.training.trained import load_model
from trainer.training.validation import predict_split
from tuner.cluster.protocol import ChiefClient
from tuner.cluster.pulse import Progress
from tuner.cluster.worker_options import WorkerOptions
from tuner.objectives import OBJECTIVES, metric_values


@keep_images()
def run_trial(
    task: dict[str, Any], data: XrayDataset, search: dict[str, Any], options: WorkerOptions, progress: Progress,
    client: ChiefClient,
) -> dict[str, Any]:  # fmt: skip
    """Trains a trial, or resumes it, and scores it.

    Args:
      task: `trial`, its id, and `config`.
      data: to train on.
      search: `objective` and `positive` of the search.
      options, client: of the worker.
      progress: kept up to date; asks for a stop.

    Returns:
      The fields of `Chief.end`: `outcome`, `message`, `score`, `best_epoch`, `rows`, `parameters`.

    Raises:
      Stopped: another worker may resume it.
      TrainingError: the loss is not finite, or memory does not suffice.
    """
    config, root = TrainConfig.from_json(task["config"]), Path(options.project, "runs", task["trial"])
    facts = DataFacts.of(data, search["positive"])
    steps = training_steps(data, config, facts, **options.stream)
    keras.backend.clear_session()
    gc.collect()
    with _locked_in_time(root, options.patience, progress):
        run = _take_up(root, config, facts)
        reporter = Reporter(client, progress, steps, config.epochs)
        outcome, message = "completed", ""
        if run.state != "finished":
            how = {"resume": run.last_checkpoint.exists(), "stop": progress.stop, "quiet": True, **options.stream}
            try:
                train(run, data, callbacks=[reporter], **how)
            except Stopped:
                if progress.asked_by != "pruner":
                    raise
                outcome, message = "pruned", progress.reason
        rows = run.read_history()
        monitor, goal = config.monitor, OBJECTIVES[search["objective"]]
        finite = [row for row in rows if math.isfinite(row[monitor])]
        if not finite:
            raise TrainingError(f"no epoch had a {monitor} that is a number")
        best = (max if MONITORS[monitor] == "max" else min)(finite, key=lambda row: row[monitor])
        score = best[monitor]
        if goal.shift_metric is not None:
            progress.move("evaluating", config.epochs)
            score = worst_under_shifts(run, data, goal.shift_metric)
    found = {"score": score, "best_epoch": int(best["epoch"]), "rows": rows, "parameters": reporter.parameters}
    return {"outcome": outcome, "message": message, **found}


@contextlib.contextmanager
def _locked_in_time(root: Path, patience: float, progress: Progress) -> Iterator[None]:
    """Locks the directory of a run; waits for a worker that lost the trial and has not noticed yet.

    Raises:
      Stopped: another process has it still.
    """
    end = time.monotonic() + patience
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(root))
                break
            except BusyError as error:
                if progress.stop or time.monotonic() > end:
                    raise Stopped(str(error)) from error
                progress.move("waiting for another process")
                time.sleep(0.5)
        yield


def _take_up(root: Path, config: TrainConfig, facts: DataFacts) -> Run:
    """The run of a trial: the one that another worker began, if it is intact, or a new one."""
    if (root / RUN_NAME).exists():
        try:
            run = open_run(root)
            same = run.config == config.resolved() and dataclasses.replace(run.facts, path=facts.path) == facts
            whole = run.last_checkpoint.exists() or run.state == "finished" or not run.history.exists()
            if same and whole:
                return run
        except DatasetError:
            pass
    for path in root.iterdir():  # except the lock, which is held
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()
    return create_run(root, config, facts)


class Reporter(keras.callbacks.Callback):
    """Reports each epoch of so many steps to the chief, and stops training where the chief says so."""

    def __init__(self, client: ChiefClient, progress: Progress, steps: int, epochs: int):
        super().__init__()
        self._client, self._progress, self._steps, self._epochs = client, progress, steps, epochs
        self._epoch = 0
        self.parameters: int | None = None

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self.parameters = int(model.count_params())

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch
        self._progress.move("training", epoch)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._progress.move("training", self._epoch, min(1.0, batch / self._steps))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        progress, done = self._progress, epoch + 1
        progress.move("training", done)
        row = {"epoch": done, **{name: float(value) for name, value in (logs or {}).items()}}
        try:
            answer = self._client.ask("report", **progress.lease, epoch=done, rows=[row], parameters=self.parameters)
        except CxrError as error:  # the chief is gone, or cannot write: the trial is for later
            progress.leave("chief", str(error))
            return
        if answer["do"] == "prune" and done < self._epochs:
            progress.leave("pruner", answer["reason"])
        elif answer["do"] == "leave":
            progress.leave("chief", answer["reason"])


def worst_under_shifts(run: Run, data: XrayDataset, metric: str) -> float:
    """The lowest of a metric on validation as it is and under each shift of `cxr evaluate`.

    Args:
      run: with a best epoch.
      data: that it was trained on.
      metric: `roc_auc`, or `balanced_accuracy`, the mean of recall and specificity at the operating point that
        is chosen on validation as it is.
    """
    model = load_model(run)
    predictions = predict_split(model, data, VALIDATION, run.config)
    point = choose_operating_point(run, None, lambda: predictions)
    plain = evaluate_predictions(predictions, point, run.facts.positive, bootstrap=0)["metrics"]
    suite = shift_suite(run, model, data, VALIDATION, point, plain, quiet=True)["shifts"]
    return min(metric_values(each)[metric] for each in (plain, *(shift["metrics"] for shift in suite.values())))

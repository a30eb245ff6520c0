"""What TensorBoard shows of a run while it trains."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from cxr.events import EventWriter
from tfrecords.dataset import XrayDataset
from trainer.training.classifier import augmented
from trainer.training.keeper import Keeper, synchronize

SHOWN_IMAGES = 16
REPORT_STEPS = 50
"""Steps between two reports, where an epoch is long enough."""


class RunLog(keras.callbacks.Callback):
    """Writes scalars of steps and epochs, and the first augmented batch, to TensorBoard.

    Below `train/`: `step/loss` and `step/accuracy` since the last report, `step/learning_rate`, and under float16
    `step/loss_scale` and `step/skipped_steps`, those whose gradients overflowed; `epoch/...` of each epoch.
    Below `validation/`: `epoch/...` under the same names, so that both are in one chart.

    The caller closes the writers of the two event files: a stop leaves Keras's `fit` without its end. `sample` is the
    data set and the stream options of the batch to show; None shows none.
    """

    def __init__(
        self, train: EventWriter, validation: EventWriter, keeper: Keeper,
        sample: tuple[XrayDataset, dict[str, Any]] | None = None,
    ):  # fmt: skip
        super().__init__()
        self.train, self.validation, self.keeper, self.sample = train, validation, keeper, sample
        self.every = report_every(keeper.steps)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self.sample is not None:
            self._show_sample(*self.sample)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._first_step = self.keeper.position.step
        self._before = (0, {"loss": 0.0, "accuracy": 0.0})

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Reports after `batch` steps of this call of `fit`, where they are a multiple of `every`."""
        done = self._first_step + batch
        if not batch or done % self.every:
            return
        synchronize(self.model)
        # means since the epoch began
        means = {name: _number(value) for name, value in self.model.get_metrics_result().items()}
        count, before = self._before
        report = {f"step/{name}": (mean * done - before[name] * count) / (done - count) for name, mean in means.items()}
        self._before = (done, means)
        optimizer = self.model.optimizer
        report["step/learning_rate"] = _number(optimizer.learning_rate)
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            report["step/loss_scale"] = _number(optimizer.dynamic_scale)
            before_phase = self.keeper.phase_begin * self.keeper.steps
            report["step/skipped_steps"] = _number(self.model.steps) - before_phase - _number(optimizer.iterations)
        self.train.scalars(_finite(report), self.keeper.position.epoch * self.keeper.steps + done)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        for writer, of_validation in ((self.train, False), (self.validation, True)):
            names = [name for name in logs or {} if name.startswith("val_") == of_validation]
            values = {f"epoch/{name.removeprefix('val_')}": float(logs[name]) for name in names}
            writer.scalars(_finite(values), epoch + 1)
            writer.flush()

    def _show_sample(self, data: XrayDataset, options: dict[str, Any]) -> None:
        run = self.keeper.run
        stream = data.stream("train", **{**options, "cache": "none", "epochs": 1, "prefetch": 1, "threads": 1})
        batch = next(iter(stream.take(1).as_numpy_iterator()))[0]
        batch = keras.tree.map_structure(lambda part: part[:SHOWN_IMAGES], batch)
        images = keras.tree.flatten(batch)[0]
        shown = augmented(self.model, batch)
        self.train.image("first_batch/as_stored", _bytes(images), 0, "as the stream yields them")
        self.train.image("first_batch/as_trained_on", _bytes(shown), 0, "after augmentation and equalisation")
        self.train.text("run/config", f"```json\n{json.dumps(run.config.to_json(), indent=2)}\n```", 0)
        self.train.text("run/data", f"```json\n{json.dumps(run.facts.to_json(), indent=2)}\n```", 0)
        self.train.flush()


def report_every(steps: int) -> int:
    """Steps between two reports for epochs of so many; an epoch has four of them at least, if it can."""
    return min(REPORT_STEPS, max(1, steps // 4))


def _bytes(images: Any) -> Any:
    """Images as uint8."""
    if images.dtype == "uint8":
        return images
    if images.dtype == "uint16":
        return (images // 257).astype("uint8")
    return (images * 255 + 0.5).clip(0, 255).astype("uint8")


def _number(value: Any) -> float:
    return float(ops.convert_to_numpy(getattr(value, "value", value)))


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    """Without what is NaN or infinite, of which TensorBoard draws nothing."""
    return {name: value for name, value in values.items() if math.isfinite(value)}

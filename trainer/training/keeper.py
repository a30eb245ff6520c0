"""What is kept of a run while it trains: checkpoints, the best epoch, the history, and when to end."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from cxr.errors import TrainingError
from cxr.files import replacing
from trainer.run import Run
from trainer.train_config import MONITORS
from trainer.training.checkpoint import restore_checkpoint, save_checkpoint, value_of
from trainer.training.optimizers import PLATEAU_EPOCHS, PLATEAU_FACTOR
from trainer.training.stopping import Stopped, StopRequest

CHECK_STEPS = 50
"""Steps between two looks at whether all is finite; each waits for the device."""


@dataclasses.dataclass
class Position:
    """Where training stands; the part of a checkpoint that is not variables.

    Attributes:
      epoch: epochs done.
      step: steps of the next one done.
      best: best value of the monitored metric so far, None before the first epoch's end.
      best_epoch: the epoch of it, from 0.
      waited: epochs since.
      stalled: epochs since the best, or since the plateau schedule last lowered the rate.
      ended: whether early stopping ended it.
      history: the epochs' logs.
    """

    epoch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = -1
    waited: int = 0
    stalled: int = 0
    ended: bool = False
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)


class Keeper(keras.callbacks.Callback):
    """The last of the callbacks: saves, chooses the best epoch, and ends training.

    It writes a checkpoint at the end of each epoch and every `checkpoint_seconds`, never one of a model whose loss was
    not finite; when a stop is requested, for which it looks after each step, it writes one and raises `Stopped`.

    Attributes:
      position: where training stands.
      to_restore: whether the model is still to be given the variables of the last checkpoint.
      phase_begin: first epoch of the phase at hand, whose optimizer begins anew.
      last_phase: whether it is the last; only that one is ended early.
    """

    def __init__(self, run: Run, position: Position, steps: int, stop: StopRequest, checkpoint_seconds: float):
        super().__init__()
        self.run, self.position, self.steps, self.stop = run, position, steps, stop
        self.checkpoint_seconds = checkpoint_seconds
        self._monitor = run.config.monitor
        self._sign = 1 if MONITORS[self._monitor] == "max" else -1
        self.to_restore, self.phase_begin, self.last_phase = False, 0, True
        self._first_step = 0
        self._saved, self._saved_step = time.monotonic(), self.step

    @property
    def step(self) -> int:
        """Training steps done, over all epochs."""
        return self.position.epoch * self.steps + self.position.step

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._first_step = self.position.step
        if self.to_restore:  # `fit` has reset the metrics just now
            begins_phase = self.position.epoch == self.phase_begin and not self.position.step
            restore_checkpoint(self.run.last_checkpoint, self.model, only_model=begins_phase)
            self.to_restore = False
            if not self.position.step:
                self.model.reset_metrics()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks around after `batch` steps. At a step's end Keras would wait for its results, or call from a thread."""
        self.position.step = self._first_step + batch
        if not batch:
            return
        if self.position.step % CHECK_STEPS == 0:
            self.check_finite()
        if self.stop:
            self.leave()
        elif time.monotonic() - self._saved > self.checkpoint_seconds:
            self.save()

    def close_steps(self) -> None:
        """Notes that all steps of the epoch are done, before its validation; raises as `check_finite`."""
        self.position.step = self.steps
        self.check_finite()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Notes the epoch. `logs` must hold the validation metrics."""
        position = self.position
        value = float(logs[self._monitor])
        better = position.best is None or self._sign * (value - position.best) > 0
        if math.isfinite(value) and better:
            position.best, position.best_epoch = value, position.epoch
            position.waited = position.stalled = 0
            with averaged_weights(self.model, self.run.config.ema), replacing(self.run.best_weights, "") as temporary:
                self.model.save_weights(temporary, overwrite=True)
        else:
            position.waited += 1
            position.stalled += 1
        if self.run.config.schedule == "plateau" and position.stalled >= PLATEAU_EPOCHS:
            rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
            self.model.optimizer.learning_rate = rate * PLATEAU_FACTOR
            position.stalled = 0
        patience = self.run.config.early_stopping if self.last_phase else 0
        if patience and position.waited >= patience:
            position.ended = self.model.stop_training = True
        position.history.append({"epoch": position.epoch + 1, **{name: float(value) for name, value in logs.items()}})
        position.epoch, position.step = position.epoch + 1, 0
        self.run.write_history(position.history)
        self.save()
        if self.stop and not position.ended and position.epoch < self.run.config.epochs:
            self.leave()

    def finish_epoch(self, model: keras.Model, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        """Ends an epoch of which all steps are done, with the callbacks that take part in that."""
        for callback in (*callbacks, self):
            callback.set_model(model)
        self.on_epoch_begin(self.position.epoch)
        logs = {name: float(ops.convert_to_numpy(value)) for name, value in model.get_metrics_result().items()}
        for callback in (*callbacks, self):
            callback.on_epoch_end(self.position.epoch, logs)

    def check_finite(self) -> None:
        """Raises TrainingError, with the number of the step, where a loss or a weight is not finite."""
        synchronize(self.model)
        if is_finite(self.model):
            return
        bad = int(value_of(self.model.first_bad_step)) or self.step
        kept = "no checkpoint had been written yet"
        if self.run.last_checkpoint.exists():
            kept = f"the last good checkpoint is kept, {self.run.last_checkpoint}, of step {self._saved_step}"
        raise TrainingError(
            f"the loss is not finite since step {bad} (epoch {(bad - 1) // self.steps + 1}). Training was stopped; "
            f"{kept}. Lower --learning-rate, or limit --gradient-clip to 1"
        )

    def save(self) -> None:
        """Writes the checkpoint from which training can go on, unless a loss or weight is not finite."""
        synchronize(self.model)
        if is_finite(self.model):
            save_checkpoint(self.run.last_checkpoint, self.model, dataclasses.asdict(self.position))
            self._saved, self._saved_step = time.monotonic(), self.step

    def leave(self) -> None:
        """Saves, and raises Stopped."""
        self.save()
        position = self.position
        where = f"epoch {position.epoch} of {self.run.config.epochs}"
        if position.step:
            where = f"step {position.step} of {self.steps} in epoch {position.epoch + 1} of {self.run.config.epochs}"
        raise Stopped(f"stopped after {where}; `cxr train --run {self.run.root} --resume` goes on", self.stop.signal)

    def finish(self) -> None:
        """Notes in the run that training is over."""
        position = self.position
        if position.best is None:
            raise TrainingError(
                f"no epoch had a {self._monitor} that is a number, so none could be chosen as the best; "
                "choose another --monitor"
            )
        self.run.finish(epochs=position.epoch, best_epoch=position.best_epoch + 1, best=position.best)


def synchronize(model: keras.Model) -> None:
    """Brings the model's variables up to date; the JAX backend keeps them elsewhere while it fits."""
    if keras.backend.backend() == "jax" and getattr(model, "_jax_state", None) is not None:
        model.jax_state_sync()


def is_finite(model: keras.Model) -> bool:
    """Whether every loss so far and every weight is finite."""
    if int(value_of(model.first_bad_step)):
        return False
    return all(bool(np.isfinite(value_of(weight)).all()) for weight in model.weights)


@contextmanager
def averaged_weights(model: keras.Model, ema: float) -> Iterator[None]:
    """Inside, the model has the averaged weights, where `ema` is not 0."""
    if not ema:
        yield
        return
    synchronize(model)
    variables = model.trainable_variables
    before = [value_of(variable) for variable in variables]
    model.optimizer.finalize_variable_values(variables)
    for variable in variables:  # with memory of its own: JAX gives a model's away when it predicts
        variable.assign(value_of(variable))
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)

"""Training: one or two phases of Keras's `fit` that can be stopped at any step and resumed.

A run goes on exactly where it was because nothing that matters lives outside the checkpoint and the configuration:
the batch of a step is a pure function of the step (`tfrecords.streaming.sampling`), augmentation and dropout draw from
generators whose states are variables, and what the callbacks remember is stored with the variables.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import keras

from cxr.errors import DatasetError, TrainingError
from cxr.events import EventWriter
from tfrecords.dataset import XrayDataset
from tfrecords.streaming.cache import keep_images
from tfrecords.streaming.stream import plain_errors
from trainer.facts import TRAIN, check_trainable
from trainer.models.heads import set_trainable
from trainer.run import Run, locked
from trainer.train_config import TrainConfig
from trainer.training.checkpoint import read_state
from trainer.training.classifier import Classifier, build_classifier, compile_classifier
from trainer.training.devices import device_scope
from trainer.training.epoch_bar import EpochBar
from trainer.training.input_monitor import InputMonitor
from trainer.training.inputs import stream_options, training_steps
from trainer.training.keeper import Keeper, Position
from trainer.training.memory import check_memory
from trainer.training.run_log import RunLog, report_every
from trainer.training.stopping import StopRequest
from trainer.training.validation import Validation


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with one optimizer.

    Attributes:
      first, last: epochs, from 0; `last` is not part of it.
      rate: highest learning rate.
      part: which layers train: `all`, `head`, or the number of pretrained layers from the last.
    """

    first: int
    last: int
    rate: float
    part: Literal["head", "all"] | int


def phases_of(config: TrainConfig) -> list[Phase]:
    """Frozen first, then fine-tuned, where the configuration says so."""
    frozen = config.freeze_epochs
    if not frozen:
        return [Phase(0, config.epochs, config.learning_rate, "all")]
    phases = [Phase(0, frozen, config.learning_rate, "head")]
    if config.epochs > frozen:
        part: Literal["all"] | int = config.fine_tune_layers or "all"
        phases.append(Phase(frozen, config.epochs, config.fine_tune_learning_rate, part))
    return phases


def train(
    run: Run, data: XrayDataset, *, resume: bool = False, callbacks: Sequence[keras.callbacks.Callback] = (),
    stop: StopRequest | None = None, checkpoint_seconds: float = 60.0, devices: int | None = None, quiet: bool = False,
    **stream: Any,
) -> list[dict[str, float]]:  # fmt: skip
    """Trains the model of a run, or resumes its training.

    Args:
      data: with splits `train` and `val`.
      resume: go on from the run's last checkpoint; from the beginning where it has none yet.
      callbacks: more of them; their `logs` hold training and validation metrics of an epoch.
      stop: asked after each step; training is left as soon as it is requested, with everything saved.
      checkpoint_seconds: between two checkpoints; one is written at each epoch's end in any case.
      devices: train on the first so many of this host; None is all its GPUs.
      stream: options of the stream that change its speed and nothing else, such as `cache` and `threads`.

    Returns:
      the epochs' logs.

    Raises:
      InputError: data and run do not fit together, or the weights do not fit the model.
      TrainingError: the loss is not finite, or memory does not suffice.
      Stopped: as requested by `stop`.
    """
    config, facts = run.config, run.facts
    check_trainable(data, facts, config.monitor)
    resuming = resume and run.last_checkpoint.exists()
    if resume and not resuming and run.history.exists():
        raise DatasetError(f"the run {run.root} has lost {run.last_checkpoint}; start anew with --overwrite")
    with locked(run.root), _memory_errors(config), plain_errors(), keep_images(), device_scope(devices) as used:
        options = stream_options(config, facts.multi_label, used, **stream)
        check_memory(config, facts, data, options)
        model = build_classifier(config, facts, load_weights=not resuming)
        steps = training_steps(data, config, facts, used, **stream)
        position = Position(**read_state(run.last_checkpoint)) if resuming else Position()
        keeper = Keeper(run, position, steps, StopRequest() if stop is None else stop, checkpoint_seconds)
        keeper.to_restore = resuming
        validation = Validation(data, keeper, **stream)
        callbacks = [*callbacks, *([] if quiet else [EpochBar(keeper)])]
        with EventWriter(run.tensorboard / "train") as log, EventWriter(run.tensorboard / "validation") as val_log:
            for phase in phases_of(config):
                if position.epoch >= phase.last or position.ended:
                    continue
                set_trainable(model, phase.part)
                warmup = config.warmup_epochs if phase.first == 0 else 0.0
                compile_classifier(model, config, facts, steps, phase.last - phase.first, phase.rate, warmup)
                _run_phase(model, data, phase, validation, options, callbacks, used, (log, val_log))
        keeper.finish()
    return position.history


def _run_phase(
    model: Classifier, data: XrayDataset, phase: Phase, validation: Validation, options: dict[str, Any],
    callbacks: Sequence[keras.callbacks.Callback], devices: int, logs: tuple[EventWriter, EventWriter],
) -> None:  # fmt: skip
    """Fits what is left of a phase: first the rest of an epoch that was begun, then whole epochs."""
    keeper = validation.keeper
    config, steps, position = keeper.run.config, keeper.steps, keeper.position
    keeper.phase_begin, keeper.last_phase = phase.first, phase.last == config.epochs
    if position.epoch == phase.first and not position.step:
        position.waited = position.stalled = 0
    for partial in (True, False):
        if partial and not position.step:
            continue
        if position.epoch >= phase.last or position.ended:
            return
        first = position.epoch * steps + position.step
        count, last = (steps - position.step, position.epoch + 1) if partial else (steps, phase.last)
        stream = data.stream(TRAIN, first_step=first, **options)
        around: list[keras.callbacks.Callback] = [validation]
        if devices == 1:  # several GPUs make Keras read ahead, where no wait can be measured
            monitor = InputMonitor(logs[0], every=report_every(steps), first_step=first)
            stream = monitor.watch(stream)
            around.insert(0, monitor)
        after = [*callbacks, RunLog(*logs, keeper, sample=None if first else (data, options))]
        if not count:  # stopped between an epoch's last step and the end of its validation
            keeper.finish_epoch(model, [validation, *after])
            continue
        model.fit(
            stream, steps_per_epoch=count, initial_epoch=position.epoch, epochs=last,
            callbacks=[*around, *after, keeper], shuffle=False, verbose=0,
        )  # fmt: skip
        # Keras leaves averaged weights behind where it averages; training continues from those that the keeper saved
        keeper.to_restore = config.ema > 0


_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|out of memory|OOM when|failed to allocate|ResourceExhausted", re.IGNORECASE)


@contextmanager
def _memory_errors(config: TrainConfig) -> Iterator[None]:
    """Inside, what a device says when its memory is full becomes an error that says what to lower."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, MemoryError) and not _MEMORY.search(f"{type(error)} {error}"):
            raise
        raise TrainingError(
            f"out of memory with {config.model}, batches of {config.batch_size}, {config.size_text}: "
            f"lower --batch-size (try {max(1, config.batch_size // 2)}) or --image-size, or on a GPU try "
            "--mixed-precision bfloat16; the last checkpoint is kept"
        ) from error

"""The share of each training step that is spent waiting for input.

A Keras callback cannot see that wait: with the TensorFlow backend the next batch is fetched inside the compiled
train function. It is therefore measured where the batch is handed over. `InputMonitor.watch` puts two stages
around a dataset, one that notes when a batch is asked for and one that notes when it is there:

    counter -> asked at --.
                           zip -> there at -> the batch, unchanged
    dataset --------------'

`zip` pulls its inputs one after the other in the thread that asks, so the difference is the consumer's wait as long
as nothing reads ahead between the second stage and the training step. What would read ahead is turned off, and
what cannot be turned off is detected at the second batch.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import astuple, dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cxr.errors import InputError
from cxr.events import EventWriter


@dataclass(frozen=True)
class Tally:
    """What happened over a stretch of training, or up to now; the difference of two readings is the stretch between.

    Attributes:
      wall: seconds.
      waited: seconds of them between asking for a batch and having it.
      batches: batches handed over.
      images: images in those batches.
    """

    wall: float = 0.0
    waited: float = 0.0
    batches: int = 0
    images: int = 0

    def plus(self, other: Tally, sign: int = 1) -> Tally:
        """The sum, or with a sign of -1 the difference."""
        return Tally(*(ours + sign * theirs for ours, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def wait_share(self) -> float:
        """Waiting time over wall time, in [0, 1]; NaN for an empty stretch."""
        return min(1.0, self.waited / self.wall) if self.batches else math.nan

    @property
    def images_per_second(self) -> float:
        """Images over wall time; NaN for an empty stretch."""
        return self.images / self.wall if self.batches else math.nan

    @property
    def step_milliseconds(self) -> float:
        """Mean wall time of a training step, input included; NaN for an empty stretch."""
        return 1000 * self.wall / self.batches if self.batches else math.nan


class InputMonitor(keras.callbacks.Callback):
    """Logs how long training waits for input, and images/s, to TensorBoard and to the epoch's logs.

        monitor = InputMonitor(events)
        model.fit(monitor.watch(dataset), callbacks=[monitor])

    Scalars, each over the time since the last report and under the number of the training step:
    `input/wait_share` in [0, 1], `input/images_per_second`, `input/step_milliseconds`. The epoch's logs get
    `input_wait_share` and `images_per_second` of the whole epoch, for History and for the callbacks that follow
    this one in the list. Only training counts: not validation, not what callbacks do between epochs, and not
    the first batch of a fit, in which the step is compiled. An epoch of which nothing is left reads NaN.

    Where a device goes on computing while the loop waits (the JAX backend, and `steps_per_execution` above 1), the
    share is an upper bound of the time for which the device is idle. `class_weight` and distribution strategies make
    Keras read ahead of the steps, where no wait can be measured: put class weights in the dataset, as its third
    component.

    Args:
      events: writer of the event file, which the caller closes; None writes none.
      every: training batches between two reports.
      first_step: training steps done before, by which reports are numbered; None asks the optimizer.

    Attributes:
      last_epoch: tally of the last epoch.
    """

    async_safe = True  # Keras awaits the results of each step for callbacks that do not say so

    def __init__(self, events: EventWriter | None = None, every: int = 50, first_step: int | None = None):
        super().__init__()
        self.events, self.every = events, every
        self.last_epoch = Tally()
        self._step = first_step
        self._lock = threading.Lock()
        self._total = Tally()  # of all batches that counted, from TensorFlow's threads
        self._asked = 0  # batches asked for in training
        self._watching = self._active = False
        self._begin_fit()

    def _begin_fit(self) -> None:
        self._compiled = self._checked = self._active = False
        self._opened: Tally | None = None  # reading at which the stretch now measured began

    def watch(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The same dataset, with this monitor at its end; raises InputError where it is not batched.

        Elements, their structure and order, cardinality and the dataset's options stay as they are, but tf.data adds no
        prefetch of its own: put one before. The two stages cost about 0.35 ms a batch on 2 cores, whatever its size.
        Batches are of dense tensors in any structure; the first dimension of the first counts the images.
        """
        if tf.nest.flatten(dataset.element_spec)[0].shape.rank == 0:
            raise InputError(
                f"InputMonitor.watch got a dataset of single examples, {dataset.element_spec}; "
                "it counts the images of batches. Call .batch(...) first."
            )
        self._watching = True

        def note_ask() -> np.int64:
            with self._lock:
                self._asked += self._active
            return np.int64(time.perf_counter_ns())

        def note_delivery(asked_at: np.int64, images: np.int64) -> None:
            waited = (time.perf_counter_ns() - int(asked_at)) / 1e9
            with self._lock:
                if self._active:
                    self._total = self._total.plus(Tally(0.0, waited, 1, int(images)))

        def ask(_: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(tf.numpy_function(note_ask, [], tf.int64), [])

        def deliver(asked_at: tf.Tensor, batch: Any) -> Any:
            images = tf.shape(tf.nest.flatten(batch)[0], tf.int64)[0]
            tf.numpy_function(note_delivery, [asked_at, images], [])
            return batch

        watched = tf.data.Dataset.zip(tf.data.Dataset.counter().map(ask), dataset).map(deliver)
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False
        return watched.with_options(options)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Raises InputError where the monitor watches no dataset."""
        if not self._watching:
            raise InputError(
                "InputMonitor watches no dataset, so it cannot tell how long training waits for input. "
                "Train on what its watch method returns: model.fit(monitor.watch(dataset), callbacks=[monitor])."
            )
        self._begin_fit()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._step is None:  # not in on_train_begin, where a callback after this one may restore the optimizer
            self._step = int(self.model.optimizer.iterations)
        self._first_step = self._step
        self._epoch = self._pending = Tally()  # of this epoch, and of it since the last report
        self._reported = 0  # batches of this epoch done at the last report
        self._batches_before, self._asked_before = self._read().batches, self._asked

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Reports where `every` batches are done. `batch` of them are done when this is called.

        Raises:
          InputError: training does not read the watched dataset, or something reads it ahead of the steps.
        """
        self._active = True
        if not self._compiled:
            self._compiled = True
            return
        if batch and not self._checked:
            self._check_reader(batch)
            self._checked = True
        if batch - self._reported >= self.every:
            self._close()
            self._report(self._first_step + batch)
            self._reported = batch
        if self._opened is None:
            self._opened = self._read()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._ended = time.perf_counter()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._close()
        self._active = False  # until the next training batch begins

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._close(self._ended)  # not now: the callbacks before this one may have saved a model
        self._active = False
        done = self._read().batches - self._batches_before
        if not done:
            self._check_reader(1)
        self._step = self._first_step + done
        self._report(self._step)
        self.last_epoch = self._epoch
        if logs is not None:
            logs["input_wait_share"] = self.last_epoch.wait_share
            logs["images_per_second"] = self.last_epoch.images_per_second

    def _read(self, now: float | None = None) -> Tally:
        """All that was counted so far, with the clock at `now` or at this moment as its wall time, seconds."""
        with self._lock:
            return self._total.plus(Tally(time.perf_counter() if now is None else now))

    def _close(self, now: float | None = None) -> None:
        """Ends the stretch now measured, at the time `now` in seconds or at this moment."""
        if self._opened is not None:
            stretch = self._read(now).plus(self._opened, -1)
            self._pending, self._epoch = self._pending.plus(stretch), self._epoch.plus(stretch)
            self._opened = None

    def _report(self, step: int) -> None:
        pending, self._pending = self._pending, Tally()
        if self.events is not None and pending.batches:
            names = ("wait_share", "images_per_second", "step_milliseconds")
            self.events.scalars({f"input/{name}": getattr(pending, name) for name in names}, step)

    def _check_reader(self, done: int) -> None:
        """Raises InputError unless exactly the batches of the steps done were asked for."""
        asked = self._asked - self._asked_before
        if not asked:
            raise InputError(
                "training does not read the dataset that InputMonitor watches. watch returns a new dataset; "
                "train on that one: model.fit(monitor.watch(dataset), callbacks=[monitor])."
            )
        ahead = 0 if keras.backend.backend() == "tensorflow" else 1  # JAX sends one batch ahead to an accelerator
        if asked > done + ahead:
            raise InputError(
                f"the dataset that InputMonitor watches is read ahead of training: {asked} batches were asked for "
                f"after {done} steps, so the wait of a step cannot be measured. Call watch last, after any prefetch; "
                "give class weights as the dataset's third component, not as class_weight; and leave the monitor "
                "out under a distribution strategy."
            )

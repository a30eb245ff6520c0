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
from dataclasses import dataclass
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

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.wall + other.wall,
            self.waited + other.waited,
            self.batches + other.batches,
            self.images + other.images,
        )

    def __sub__(self, other: Tally) -> Tally:
        return self + Tally(-other.wall, -other.waited, -other.batches, -other.images)

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


class _Counter:
    """Where watched datasets report to, from TensorFlow's threads.

    A dataset keeps the counter that it was given, so a deep copy of a monitor must not get one of its own:
    copying returns the counter itself.

    Attributes:
      active: whether batches count now; off outside training, so that validation on a watched dataset does not.
      watching: whether any dataset reports here.
      asked: batches asked for while active.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = Tally()
        self.active = False
        self.watching = False
        self.asked = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> _Counter:
        return self

    def ask(self) -> np.int64:
        """Notes that a batch is asked for; returns the time, nanoseconds."""
        with self._lock:
            self.asked += self.active
        return np.int64(time.perf_counter_ns())

    def deliver(self, asked_at: np.int64, images: np.int64) -> None:
        """Notes that the batch asked for at `asked_at` is there."""
        waited = (time.perf_counter_ns() - int(asked_at)) / 1e9
        with self._lock:
            if self.active:
                self._total += Tally(0.0, waited, 1, int(images))

    def read(self, now: float | None = None) -> Tally:
        """All that was counted so far, with the clock at `now` or at this moment as its wall time, seconds."""
        with self._lock:
            return self._total + Tally(time.perf_counter() if now is None else now)


class InputMonitor(keras.callbacks.Callback):
    """Logs how long training waits for input, and images/s, to TensorBoard and to the epoch's logs.

        monitor = InputMonitor(events)
        model.fit(monitor.watch(dataset), callbacks=[monitor])

    Scalars, each over the time since the last report and under the number of the training step:
    `input/wait_share` in [0, 1], `input/images_per_second`, `input/step_milliseconds`. The epoch's logs get
    `input_wait_share` and `images_per_second` of the whole epoch, for History and for the callbacks that follow
    this one in the list. Only training counts: not validation, not what callbacks do between epochs, and not
    the first batch of a fit, in which the step is compiled. An epoch of which nothing is left reads NaN.

    The wait is the training loop's. Where a device goes on computing meanwhile (the JAX backend, which does not
    await a step, and `steps_per_execution` above 1, where TensorFlow fetches the next batch during the current
    step), the share is an upper bound of the time for which the device is idle.

    Pass the watched dataset to `fit` as it is. `class_weight` and distribution strategies make Keras read ahead
    of the steps, where no wait can be measured; put the weights in the dataset, as its third component.

    Args:
      events: writer of the event file, which the caller closes; None writes none.
      every: training batches between two reports.
      first_step: training steps done before, by which reports are numbered; None asks the optimizer.

    Raises:
      ValueError: `every` is below 1.
    """

    async_safe = True  # Keras awaits the results of each step for callbacks that do not say so

    def __init__(self, events: EventWriter | None = None, every: int = 50, first_step: int | None = None):
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1 batch; received {every}")
        self.events = events
        self.every = every
        self._given_step = first_step
        self._counter = _Counter()
        self._begin_fit()

    def _begin_fit(self) -> None:
        self._counter.active = False
        self._compiled = self._checked = False
        self._step: int | None = self._given_step
        self._ended = 0.0
        self._opened: Tally | None = None  # reading at which the stretch now measured began
        self._pending = Tally()  # since the last report
        self._epoch = Tally()
        self._last_epoch = Tally()
        self._reported = 0  # batches of this epoch done at the last report
        self._before = self._asked_before = 0  # batches handed over and asked for before this epoch

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None, "events": None}  # a copy has neither: a writer cannot be copied

    def watch(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The same dataset, with this monitor at its end.

        Elements, their structure and order, cardinality and the dataset's options stay as they are. tf.data puts a
        prefetch at the end of a pipeline that has none; it is put before the monitor instead of behind it. The two
        stages cost about 0.35 ms a batch, measured on 2 cores, whatever the size of the batch.

        Args:
          dataset: batches of any structure; the first dimension of the first component counts the images.

        Raises:
          InputError: the dataset is not batched.
        """
        first = _first(dataset.element_spec)
        if first.shape.rank == 0:
            raise InputError(
                f"InputMonitor.watch got a dataset of single examples, {dataset.element_spec}; "
                "it counts the images of batches. Call .batch(...) first."
            )
        counter = self._counter
        counter.watching = True

        # Functions, not the counter's bound methods: TensorFlow ties the life of what it registered to the function
        # object, and would forget a bound method in keras.utils.clear_session, which KerasTuner calls.
        def note_ask() -> np.int64:
            return counter.ask()

        def note_delivery(asked_at: np.int64, images: np.int64) -> None:
            counter.deliver(asked_at, images)

        def ask(_: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(tf.numpy_function(note_ask, [], tf.int64), [])

        def deliver(asked_at: tf.Tensor, batch: Any) -> Any:
            tf.numpy_function(note_delivery, [asked_at, _length(_first(batch))], [])
            return batch

        asked = tf.data.Dataset.counter().map(ask)
        watched = tf.data.Dataset.zip(asked, _with_prefetch(dataset)).map(deliver)
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False
        return watched.with_options(options)

    @property
    def wait_share(self) -> float:
        """Share of the last epoch spent waiting for input, in [0, 1]; NaN before one has ended."""
        return self._last_epoch.wait_share

    @property
    def images_per_second(self) -> float:
        """Images/s of the last epoch; NaN before one has ended."""
        return self._last_epoch.images_per_second

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets the fit before.

        Raises:
          InputError: the monitor watches no dataset.
        """
        if not self._counter.watching:
            raise InputError(
                "InputMonitor watches no dataset, so it cannot tell how long training waits for input. "
                "Train on what its watch method returns: model.fit(monitor.watch(dataset), callbacks=[monitor])."
            )
        self._begin_fit()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._step is None:  # not in on_train_begin, where a callback after this one may restore the optimizer
            optimizer = self.model.optimizer
            self._step = int(optimizer.iterations) * (optimizer.gradient_accumulation_steps or 1)
        self._epoch = self._pending = Tally()
        self._reported = 0
        self._before, self._asked_before = self._counter.read().batches, self._counter.asked

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Reports where `every` batches are done. `batch` of them are done when this is called.

        Raises:
          InputError: training does not read the watched dataset, or something reads it ahead of the steps.
        """
        self._counter.active = True
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
            self._opened = self._counter.read()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._ended = time.perf_counter()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._close()
        self._counter.active = False  # until the next training batch begins

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._close(self._ended)  # not now: the callbacks before this one may have saved a model
        self._counter.active = False
        done = self._counter.read().batches - self._before
        if not done:
            self._check_reader(1)
        self._step = self._first_step + done
        self._report(self._step)
        self._last_epoch = self._epoch
        if logs is not None:
            logs["input_wait_share"] = self.wait_share
            logs["images_per_second"] = self.images_per_second

    @property
    def _first_step(self) -> int:
        """Training steps done before this epoch."""
        return self._step or 0

    def _close(self, now: float | None = None) -> None:
        """Ends the stretch now measured, at the time `now` in seconds or at this moment."""
        if self._opened is not None:
            stretch = self._counter.read(now) - self._opened
            self._pending += stretch
            self._epoch += stretch
            self._opened = None

    def _report(self, step: int) -> None:
        pending, self._pending = self._pending, Tally()
        if self.events is not None and pending.batches:
            names = ("wait_share", "images_per_second", "step_milliseconds")
            self.events.scalars({f"input/{name}": getattr(pending, name) for name in names}, step)

    def _check_reader(self, done: int) -> None:
        """Raises InputError unless exactly the batches of the steps done were asked for."""
        asked = self._counter.asked - self._asked_before
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


def _first(structure: Any) -> Any:
    return next(leaf for leaf in tf.nest.flatten(structure) if leaf is not None)


def _length(batch: Any) -> tf.Tensor:
    """First dimension of a dense, ragged or sparse tensor, int64 scalar."""
    if isinstance(batch, tf.RaggedTensor):
        return tf.cast(batch.nrows(), tf.int64)
    if isinstance(batch, tf.SparseTensor):
        return batch.dense_shape[0]
    return tf.shape(batch, tf.int64)[0]


def _with_prefetch(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """With the prefetch that tf.data would put at the end of a pipeline, unless that is not wanted.

    A pipeline that ends with one already gets another, which costs the memory of a batch or two and no time.
    """
    options = dataset.options()
    optimization = options.experimental_optimization
    refused = (optimization.inject_prefetch, optimization.apply_default_optimizations, options.autotune.enabled)
    return dataset if False in refused else dataset.prefetch(tf.data.AUTOTUNE)

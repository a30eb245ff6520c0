"""The wait for input against pipelines and steps that sleep for known times. Runs under any Keras backend."""

from __future__ import annotations

import math
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cxr.errors import InputError
from cxr.events import EventWriter
from trainer.training.input_monitor import InputMonitor

BATCH = 4


class SlowStep(keras.callbacks.Callback):
    """Makes every training step longer by a time in seconds, and its first batch by another."""

    def __init__(self, seconds: float = 0.0, first: float = 0.0):
        super().__init__()
        self.seconds, self.first = seconds, first

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(self.seconds + self.first)
        self.first = 0.0


def batches(images: int, seconds: float = 0.0) -> tf.data.Dataset:
    """Batches of BATCH pairs (float32 [batch, 3], float32 [batch, 1]), each made in a time in seconds."""

    def pause(x):
        time.sleep(seconds)
        return x

    values = np.arange(3 * images, dtype=np.float32).reshape(images, 3) / (3 * images)
    dataset = tf.data.Dataset.from_tensor_slices((values, values[:, :1])).batch(BATCH)
    if not seconds:
        return dataset
    return dataset.map(lambda x, y: (tf.ensure_shape(tf.numpy_function(pause, [x], tf.float32), [None, 3]), y))


def model(**options) -> keras.Model:
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    network.compile("sgd", "mse", **options)
    return network


def fit(network: keras.Model, dataset: tf.data.Dataset, *callbacks, epochs: int = 1, **options) -> dict[str, list]:
    """History of a fit."""
    options = {"verbose": 0, "shuffle": False, "callbacks": list(callbacks), "epochs": epochs} | options
    return network.fit(dataset, **options).history


def scalars(monitor: InputMonitor, tag: str) -> dict[int, float]:
    """Step to value of a tag that a monitor has written."""
    monitor.events.flush()
    events = EventAccumulator(monitor.events.folder, size_guidance={"tensors": 0}).Reload()
    return {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)}


def mean_batch(monitor: InputMonitor) -> dict[int, float]:
    """Step to images in a batch, on average since the last report."""
    rate, step = scalars(monitor, "input/images_per_second"), scalars(monitor, "input/step_milliseconds")
    return {number: rate[number] * step[number] / 1000 for number in rate}


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_slow_input_is_a_high_share(steps_per_execution):
    monitor = InputMonitor()
    network = model(steps_per_execution=steps_per_execution)
    history = fit(network, monitor.watch(batches(48, seconds=0.03)), monitor, epochs=2)
    assert all(0.5 < share <= 1 for share in history["input_wait_share"])
    assert all(0 < rate < 1.1 * BATCH / 0.03 for rate in history["images_per_second"])
    assert monitor.last_epoch.wait_share == history["input_wait_share"][-1]
    assert monitor.last_epoch.images_per_second == history["images_per_second"][-1]


def test_a_slow_step_is_a_low_share():
    monitor = InputMonitor()
    history = fit(model(), monitor.watch(batches(40, seconds=0.005).prefetch(2)), SlowStep(0.04), monitor, epochs=2)
    assert all(0 <= share < 0.2 for share in history["input_wait_share"])
    assert all(0 < rate < 1.1 * BATCH / 0.04 for rate in history["images_per_second"])


def test_the_first_batch_of_a_fit_does_not_count():
    monitor = InputMonitor()
    fit(model(), monitor.watch(batches(80)), monitor, SlowStep(first=1.5))
    assert monitor.last_epoch.images_per_second > 76 / 1.4


def test_an_epoch_with_nothing_but_the_first_batch_has_no_figure(tmp_path):
    monitor = InputMonitor(EventWriter(tmp_path))
    assert math.isnan(monitor.last_epoch.wait_share)
    history = fit(model(), monitor.watch(batches(BATCH)), monitor, epochs=2)
    assert [math.isnan(share) for share in history["input_wait_share"]] == [True, False]
    assert [math.isnan(rate) for rate in history["images_per_second"]] == [True, False]
    assert list(scalars(monitor, "input/wait_share")) == [2]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's TensorBoard on NumPy 2
def test_scalars_stand_under_the_training_step_and_continue_in_the_next_fit(tmp_path):
    network, dataset = model(), batches(12 * BATCH)
    monitor = InputMonitor(EventWriter(tmp_path / "input"), every=5)
    watched = monitor.watch(dataset)
    board = keras.callbacks.TensorBoard(tmp_path / "keras", update_freq=7, write_graph=False)
    fit(network, watched, board, monitor, epochs=2)
    assert list(scalars(monitor, "input/wait_share")) == [5, 10, 12, 17, 22, 24]
    resumed = InputMonitor(EventWriter(tmp_path / "resumed"), every=5)
    fit(network, resumed.watch(dataset), resumed)
    for tag in ("wait_share", "images_per_second", "step_milliseconds"):
        values = scalars(resumed, f"input/{tag}")
        assert list(values) == [29, 34, 36]
        assert min(values.values()) >= 0
    assert max(scalars(resumed, "input/wait_share").values()) <= 1


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_images_and_steps_of_a_partial_batch_and_a_partial_execution(tmp_path, steps_per_execution):
    monitor = InputMonitor(EventWriter(tmp_path))
    network = model(steps_per_execution=steps_per_execution)
    fit(network, monitor.watch(batches(9 * BATCH + 2)), monitor, epochs=3)
    means = mean_batch(monitor)
    assert [means[20], means[30]] == pytest.approx([3.8, 3.8], rel=1e-3)


def test_validation_on_a_watched_dataset_does_not_count(tmp_path):
    monitor = InputMonitor(EventWriter(tmp_path))
    validation = monitor.watch(batches(16 * BATCH, seconds=0.03))
    watched = monitor.watch(batches(10))
    history = fit(model(), watched, monitor, SlowStep(0.03), epochs=2, validation_data=validation)
    assert all(share < 0.3 for share in history["input_wait_share"])
    assert mean_batch(monitor)[6] == pytest.approx(10 / 3, rel=1e-3)
    assert history["images_per_second"][1] > 10 / 0.45


def structures() -> dict[str, tf.data.Dataset]:
    numbers = tf.data.Dataset.range(10)
    return {
        "triple": tf.data.Dataset.zip(numbers, numbers, numbers).batch(4, drop_remainder=True),
        "nested": numbers.map(lambda x: ({"b": x, "a": (x, [1.0, 2.0])}, x)).batch(4),
        "unknown length": numbers.filter(lambda x: x > 2).batch(4),
        "infinite": numbers.repeat().batch(4),
        "empty": numbers.take(0).batch(4),
    }


@pytest.mark.parametrize("name", structures())
def test_batches_structure_order_cardinality_and_options_are_unchanged(name):
    options = tf.data.Options()
    options.deterministic = False
    options.threading.private_threadpool_size = 1
    dataset = structures()[name].with_options(options)
    watched = InputMonitor().watch(dataset)
    assert watched.element_spec == dataset.element_spec
    assert int(watched.cardinality()) == int(dataset.cardinality())
    options.experimental_optimization.inject_prefetch = False
    assert watched.options() == options
    expected, received = (list(source.take(5).as_numpy_iterator()) for source in (dataset, watched))
    assert str(received) == str(expected)


@pytest.mark.parametrize(("watched", "fitted", "options", "message"), [
    (lambda: None, lambda watched: batches(10), {}, "watches no dataset"),
    (lambda: tf.data.Dataset.range(3), None, {}, "single examples"),
    (lambda: batches(BATCH), lambda watched: batches(BATCH), {}, "does not read the dataset"),
    (lambda: batches(40), lambda watched: batches(40), {}, "does not read the dataset"),
    (lambda: batches(80), lambda watched: watched.prefetch(8), {}, "read ahead of training"),
    (lambda: batches(80), lambda watched: watched, {"class_weight": {0: 1.0, 1: 2.0}}, "third component"),
])  # fmt: skip
def test_training_in_which_no_wait_can_be_measured_is_refused(watched, fitted, options, message):
    monitor, dataset = InputMonitor(), watched()
    with pytest.raises(InputError, match=message):
        found = monitor.watch(dataset) if dataset is not None else None
        fit(model(), fitted(found), SlowStep(0.1), monitor, **options)

"""The wait for input against pipelines and steps that sleep for known times. Runs under any Keras backend."""

from __future__ import annotations

import copy
import gc
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
        self.seconds = seconds
        self.first = first

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(self.seconds + self.first)
        self.first = 0.0


class Fail(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise RuntimeError("the step failed")


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
    assert monitor.wait_share == history["input_wait_share"][-1]
    assert monitor.images_per_second == history["images_per_second"][-1]


def test_a_slow_step_is_a_low_share():
    monitor = InputMonitor()
    history = fit(model(), monitor.watch(batches(40, seconds=0.005).prefetch(2)), SlowStep(0.04), monitor, epochs=2)
    assert all(0 <= share < 0.2 for share in history["input_wait_share"])
    assert all(0 < rate < 1.1 * BATCH / 0.04 for rate in history["images_per_second"])


def test_the_first_batch_of_a_fit_does_not_count():
    monitor = InputMonitor()
    fit(model(), monitor.watch(batches(80)), monitor, SlowStep(first=1.5))
    assert monitor.images_per_second > 76 / 1.4


def test_an_epoch_with_nothing_but_the_first_batch_has_no_figure(tmp_path):
    monitor = InputMonitor(EventWriter(tmp_path))
    assert math.isnan(monitor.wait_share)
    history = fit(model(), monitor.watch(batches(BATCH)), monitor, epochs=2)
    assert [math.isnan(share) for share in history["input_wait_share"]] == [True, False]
    assert [math.isnan(rate) for rate in history["images_per_second"]] == [True, False]
    assert list(scalars(monitor, "input/wait_share")) == [2]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's TensorBoard on NumPy 2
def test_scalars_stand_under_the_training_step_and_continue_in_the_next_fit(tmp_path):
    network, dataset = model(), batches(12 * BATCH)
    monitor = InputMonitor(EventWriter(tmp_path / "input"), every=5)
    watched = monitor.watch(dataset)
    fit(
        network,
        watched,
        keras.callbacks.TensorBoard(tmp_path / "keras", update_freq=7, write_graph=False),
        monitor,
        epochs=2,
    )
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


def test_gradient_accumulation_counts_batches(tmp_path):
    monitor = InputMonitor(EventWriter(tmp_path))
    network = model()
    network.compile(keras.optimizers.SGD(gradient_accumulation_steps=2), "mse")
    for _ in range(2):
        fit(network, monitor.watch(batches(4 * BATCH)), monitor)
    assert list(scalars(monitor, "input/wait_share")) == [4, 8]


def test_validation_on_a_watched_dataset_does_not_count(tmp_path):
    monitor = InputMonitor(EventWriter(tmp_path))
    validation = monitor.watch(batches(16 * BATCH, seconds=0.03))
    watched = monitor.watch(batches(10))
    history = fit(model(), watched, monitor, SlowStep(0.03), epochs=2, validation_data=validation)
    assert all(share < 0.3 for share in history["input_wait_share"])
    assert mean_batch(monitor)[6] == pytest.approx(10 / 3, rel=1e-3)
    assert history["images_per_second"][1] > 10 / 0.45


@pytest.mark.parametrize("deny", [False, True])
def test_the_prefetch_of_tf_data_is_kept_unless_the_caller_refuses_it(deny):
    dataset = batches(48, seconds=0.03)
    if deny:
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False
        dataset = dataset.with_options(options)
    monitor = InputMonitor()
    fit(model(), monitor.watch(dataset), monitor, SlowStep(0.06))
    assert (monitor.wait_share > 0.2) == deny


def test_a_deep_copy_hears_what_a_dataset_reports(tmp_path):
    monitor = InputMonitor()
    watched = monitor.watch(batches(40, seconds=0.02))
    first = copy.deepcopy(monitor)
    fit(model(), watched, first)
    again = copy.deepcopy(first)
    fit(model(), watched, again)
    assert first.wait_share > 0.5
    assert again.wait_share > 0.5
    assert math.isnan(monitor.wait_share)


def test_a_monitor_can_be_copied_and_used_after_a_failed_fit(tmp_path):
    monitor = InputMonitor(EventWriter(tmp_path))
    watched = monitor.watch(batches(40))
    with pytest.raises(RuntimeError, match="the step failed"):
        fit(model(), watched, monitor, Fail())
    again = copy.deepcopy(monitor)
    assert again.events is None
    fit(model(), watched, again)
    assert 0 <= again.wait_share <= 1


def structures() -> dict[str, tf.data.Dataset]:
    numbers = tf.data.Dataset.range(10)
    return {
        "tensor": numbers.batch(4),
        "pair": batches(10),
        "triple": tf.data.Dataset.zip(numbers, numbers, numbers).batch(4, drop_remainder=True),
        "single in a tuple": numbers.map(lambda x: (x,)).batch(4),
        "nested": numbers.map(lambda x: ({"b": x, "a": (x, [1.0, 2.0])}, x)).batch(4),
        "no label": numbers.batch(4).map(lambda x: (x, None)),
        "ragged": numbers.ragged_batch(4).map(lambda x: tf.RaggedTensor.from_row_lengths(tf.range(x[-1]), [x[-1]])),
        "sparse": numbers.batch(4).map(tf.sparse.from_dense),
        "text": numbers.map(tf.strings.as_string).batch(4),
        "unknown length": numbers.filter(lambda x: x > 2).batch(4),
        "infinite": numbers.repeat().batch(4),
        "empty": numbers.take(0).batch(4),
    }


@pytest.mark.parametrize("name", structures())
def test_batches_structure_order_and_cardinality_are_unchanged(name):
    dataset = structures()[name]
    watched = InputMonitor().watch(dataset)
    assert watched.element_spec == dataset.element_spec
    assert int(watched.cardinality()) == int(dataset.cardinality())

    def elements(source):
        return [tf.nest.flatten(element, expand_composites=True) for element in source.take(5)]

    expected, received = elements(dataset), elements(watched)
    assert len(received) == len(expected)
    for one, other in zip(expected, received, strict=True):
        for value, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(same, value)


def test_the_callers_options_survive():
    options = tf.data.Options()
    options.deterministic = False
    options.threading.private_threadpool_size = 1
    options.experimental_optimization.map_and_batch_fusion = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    watched = InputMonitor().watch(batches(10).with_options(options))
    options.experimental_optimization.inject_prefetch = False
    assert watched.options() == options
    assert len(list(watched)) == 3


def test_every_must_be_positive():
    with pytest.raises(ValueError, match="received 0"):
        InputMonitor(every=0)


def test_a_monitor_that_watches_nothing():
    with pytest.raises(InputError, match="watches no dataset"):
        fit(model(), batches(10), InputMonitor())


@pytest.mark.parametrize("images", [BATCH, 40])
def test_a_fit_on_another_dataset_than_the_watched(images):
    monitor = InputMonitor()
    monitor.watch(batches(images))
    with pytest.raises(InputError, match="does not read the dataset"):
        fit(model(), batches(images), monitor)


def test_single_examples_cannot_be_watched():
    with pytest.raises(InputError, match="single examples"):
        InputMonitor().watch(tf.data.Dataset.range(3))


def test_reading_ahead_of_the_monitor_is_an_error():
    monitor = InputMonitor()
    watched = monitor.watch(batches(80)).prefetch(8)
    with pytest.raises(InputError, match="read ahead of training"):
        fit(model(), watched, SlowStep(0.1), monitor)


def test_class_weights_of_fit_are_an_error_because_keras_prefetches():
    monitor = InputMonitor()
    with pytest.raises(InputError, match="third component"):
        fit(model(), monitor.watch(batches(80)), SlowStep(0.1), monitor, class_weight={0: 1.0, 1: 2.0})


def test_a_watched_dataset_outlives_a_cleared_session():
    """KerasTuner clears the session before every build."""
    monitor = InputMonitor()
    watched = monitor.watch(batches(8))
    keras.utils.clear_session()
    gc.collect()
    history = fit(model(), watched, monitor, epochs=2)
    assert len(history["images_per_second"]) == 2

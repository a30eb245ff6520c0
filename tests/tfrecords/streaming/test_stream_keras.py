"""Streams in Keras: what works, and what is said where Keras itself says nothing."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest

from cxr.errors import InputError


class Steps(keras.callbacks.Callback):
    """Counts the batches of each epoch."""

    def __init__(self):
        super().__init__()
        self.seen: list[int] = []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(0)

    def on_train_batch_end(self, batch, logs=None):
        self.seen[-1] += 1


@pytest.mark.parametrize("options", [{}, {"sample_weights": True}, {"balanced": True}], ids=str)
def test_keras_fits_a_stream(data, options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((16, 16, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    options = {"image_size": 16, "batch_size": 8, **options}
    steps = data.steps_per_epoch("train", training=True, **options)
    assert steps == 5
    counter = Steps()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = model.fit(
            data.stream("train", training=True, **options),
            steps_per_epoch=steps,
            epochs=2,
            validation_data=data.stream("val", image_size=16, batch_size=3),
            callbacks=[counter],
            shuffle=False,
            verbose=0,
        ).history
    assert counter.seen == [5, 5]
    assert len(history["loss"]) == len(history["val_loss"]) == 2
    assert np.isfinite(history["loss"] + history["val_loss"]).all()
    predicted = model.predict(data.stream("val", image_size=16, batch_size=3).map(lambda image, _: image), verbose=0)
    assert predicted.shape == (8, 3)


def untrained() -> keras.Model:
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


SMALL = {"image_size": 4, "batch_size": 4}
ENDLESS, FACTS = {**SMALL, "training": True}, {**SMALL, "metadata": True}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda model, data: model.fit(data.stream("train", **ENDLESS), shuffle=False),
            "^fit would never end: .*train",
        ),
        (lambda model, data: model.evaluate(data.stream("train", **ENDLESS)), "^evaluate would never end"),
        (lambda model, data: model.predict(data.stream("train", **ENDLESS)), "^predict would never end"),
        (
            lambda model, data: model.fit(
                data.stream("val", **SMALL), validation_data=data.stream("train", **ENDLESS), shuffle=False
            ),
            "would never end: .*validation_steps=",
        ),
        (lambda model, data: model.fit(data.stream("val", **FACTS), shuffle=False), "^fit takes .*metadata=True adds"),
        (
            lambda model, data: model.evaluate(data.stream("val", **FACTS, sample_weights=True)),
            r"^evaluate takes .*lambda image, label, weight, facts: \(image, label, weight\)\)",
        ),
    ],
)
def test_what_keras_cannot_do_with_a_stream_is_said_at_once(plain, call, message):
    with pytest.raises(InputError, match=message):
        call(untrained(), plain)


def test_what_keras_can_do_with_the_same_streams(data):
    model, endless = untrained(), data.stream("train", **ENDLESS)
    model.fit(endless, steps_per_epoch=2, validation_data=endless, validation_steps=2, shuffle=False, verbose=0)
    model.evaluate(endless, steps=2, verbose=0)
    assert model.predict(endless, steps=2, verbose=0).shape == (8, 3)
    assert model.predict(data.stream("val", **FACTS), verbose=0).shape == (8, 3)
    model.evaluate(data.stream("val", **FACTS).map(lambda image, label, facts: (image, label)), verbose=0)


def test_a_finite_training_stream_that_keras_reads_again_is_warned_of_once(data):
    stream = data.stream("train", **SMALL, training=True, epochs=1)
    with pytest.warns(UserWarning, match="epochs=1 was read to its end and is now read again, in the same") as caught:
        untrained().fit(stream, epochs=4, shuffle=False, verbose=0)
    assert len(caught) == 1
    assert "steps_per_epoch=9" in str(caught[0].message)


def test_other_streams_may_be_read_again(data):
    endless = data.stream("train", **ENDLESS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for stream in (data.stream("val", **SMALL), endless.take(20)):
            list(stream)
            list(stream)

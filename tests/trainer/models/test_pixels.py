"""Scaling, equalisation and normalisation, inside compiled models, under whichever backend Keras runs on."""

from __future__ import annotations

import cv2
import keras
import numpy as np
import pytest

from cxr.errors import InputError
from trainer.models.pixels import Equalize, Normalize, Scale
from trainer.training.precision import policy

SHAPE = (20, 28, 1)


def xrays(count=3, shape=SHAPE, seed=0) -> np.ndarray:
    """Smooth grey images with some noise, uint8, not using the whole range."""
    random = np.random.default_rng(seed)
    small = random.uniform(30, 200, (count, 4, 4)).astype("float32")
    large = np.stack([cv2.resize(image, shape[1::-1], interpolation=cv2.INTER_CUBIC) for image in small])
    noisy = large[..., None] + random.normal(0, 6, (count, *shape[:2], shape[2]))
    return noisy.clip(5, 240).astype("uint8")


def compiled(*layers, shape=SHAPE, dtype="uint8", jit=True):
    """A functional model of the layers behind a compiled predict step."""
    inputs = outputs = keras.Input(shape, dtype=dtype)
    for layer in layers:
        outputs = layer(outputs)
    model = keras.Model(inputs, outputs)
    model.compile(jit_compile=jit)
    return lambda images: model.predict(images, verbose=0, batch_size=len(images))


@pytest.mark.parametrize(("bit_depth", "dtype"), [(8, "uint8"), (16, "uint16")])
@pytest.mark.parametrize("compute", ["float32", "float16", "bfloat16"])
def test_scale_maps_full_scale_to_one_in_float32(bit_depth, dtype, compute):
    with policy(compute):
        model = compiled(Scale(bit_depth), dtype=dtype)
    full = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, full, (2, *SHAPE), dtype, endpoint=True)
    pixels[0, 0, 0], pixels[0, 0, 1] = 0, full
    scaled = model(pixels)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, pixels / full, atol=1e-7)
    assert scaled.min() == 0 and scaled.max() == 1


@pytest.mark.parametrize("jit", [False, True])
def test_equalize_is_that_of_opencv(jit):
    images = xrays(4)
    images[3] = xrays(1, seed=9)[0] // 16 * 16  # few levels
    expected = np.stack([cv2.equalizeHist(image) for image in images])[..., None]
    equalized = compiled(Scale(), Equalize(), jit=jit)(images)
    assert equalized.dtype == np.float32
    assert np.abs(equalized * 255 - expected).max() <= 1
    assert np.abs(equalized * 255 - images).mean() > 10, "equalisation changed next to nothing"


@pytest.mark.parametrize("gamma", [0.7, 1.4])
def test_equalize_undoes_gamma(gamma):
    images = xrays(shape=(64, 48, 1))
    curved = np.rint((images / 255) ** gamma * 255).astype("uint8")
    equalize = compiled(Scale(), Equalize(), shape=(64, 48, 1))
    difference = np.abs(equalize(images) - equalize(curved))
    assert difference.mean() < 0.01
    assert np.abs(images / 255 - curved / 255).mean() > 0.05


def test_equalize_keeps_equal_channels_equal_and_as_one_channel():
    images = xrays()
    of_one = compiled(Scale(), Equalize())(images)
    of_three = compiled(Scale(), Equalize(), shape=(*SHAPE[:2], 3))(np.repeat(images, 3, axis=3))
    np.testing.assert_allclose(of_three, np.repeat(of_one, 3, axis=3), atol=1e-6)


@pytest.mark.parametrize("level", [0, 77, 255])
def test_an_image_of_one_level_stays_as_it_is(level):
    images = np.full((1, *SHAPE), level, "uint8")
    np.testing.assert_allclose(compiled(Scale(), Equalize())(images), images / 255, atol=1e-6)
    np.testing.assert_allclose(compiled(Scale(), Normalize("image"))(images), 0, atol=1e-3)


def test_equalize_takes_images_one_by_one():
    images = xrays()
    equalize = compiled(Scale(), Equalize())
    alone = np.concatenate([equalize(images[[row]]) for row in range(len(images))])
    np.testing.assert_array_equal(equalize(images), alone)


def test_equalize_of_16_bit_images():
    deep = compiled(Scale(16), Equalize(), dtype="uint16")(xrays().astype("uint16") * 257)
    np.testing.assert_allclose(deep, compiled(Scale(), Equalize())(xrays()), atol=1e-6)


def test_normalize_by_the_data_set_and_not_at_all():
    images = xrays()
    for how, expected in (("dataset", (images / 255 - 0.4) / 0.2), ("none", images / 255)):
        normalized = compiled(Scale(), Normalize(how, mean=0.4, std=0.2))(images)
        np.testing.assert_allclose(normalized, expected, atol=1e-5 if how == "dataset" else 1e-7)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalize_by_the_image(channels):
    shape = (*SHAPE[:2], channels)
    normalized = compiled(Scale(), Normalize("image"), shape=shape)(xrays(shape=shape))
    np.testing.assert_allclose(normalized.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.std(axis=(1, 2, 3)), 1, atol=1e-4)


def test_layers_survive_saving(tmp_path):
    inputs = keras.Input(SHAPE, dtype="uint16")
    outputs = Normalize("dataset", mean=0.4, std=0.2)(Equalize()(Scale(16)(inputs)))
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "model.keras")
    images = xrays().astype("uint16") * 200
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model.predict(images, verbose=0), again.predict(images, verbose=0))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Scale(12), "bit_depth must be 8 or 16; received 12"),
    (lambda: Normalize("batch"), "no normalisation 'batch'; expected dataset, image, none"),
    (lambda: Normalize(std=0), "std must be above 0"),
    (lambda: Normalize(std=float("nan")), "std must be above 0"),
])  # fmt: skip
def test_impossible_options_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()

"""Grad-CAM points at what decides, in any model, under any policy."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from trainer.models import build_model
from trainer.report.gradcam import gradcam, has_feature_map, overlay
from trainer.training.precision import policy

SIDE = 32
SMALL = {"filters": (8, 16), "block": "plain", "convolutions": 1, "dropout": 0}


def classifier(name: str, labels: int = 2, channels: int = 1, options=None, weights: str = "none") -> keras.Model:
    """From raw pixels, as the trainer builds them."""
    pixels = keras.Input((SIDE, SIDE, channels), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255, dtype="float32")(pixels)
    return keras.Model(pixels, build_model(name, x, labels, options=options, weights=weights))


def squares(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise uint8 [n, SIDE, SIDE, 1], half of it with a bright square; labels; top left corners int [n, 2]."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 90, (n, SIDE, SIDE, 1), np.uint8)
    labels = np.arange(n) % 2
    corners = random.integers(0, SIDE - 8, (n, 2))
    for image, label, (top, left) in zip(images, labels, corners, strict=True):
        if label:
            image[top : top + 8, left : left + 8] = 255
    return images, labels, corners


@pytest.fixture(scope="module")
def trained() -> keras.Model:
    """Tells whether there is a square."""
    keras.utils.set_random_seed(1)
    model = classifier("cnn-separable", options=SMALL)
    images, labels, _ = squares(0, 256)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, labels, batch_size=32, epochs=8, verbose=0)
    assert model.evaluate(images, labels, verbose=0)[1] > 0.95
    return model


def test_heat_lies_on_the_square_that_decides(trained):
    images, labels, corners = squares(7, 40)
    heat = gradcam(trained, images, [1] * 40)

    assert heat.shape == (40, SIDE, SIDE) and heat.dtype == np.float32
    assert heat.min() >= 0 and heat.max() == 1
    for one, (top, left) in zip(heat[labels == 1], corners[labels == 1], strict=True):
        inside = np.zeros((SIDE, SIDE), bool)
        inside[max(0, top - 3) : top + 11, max(0, left - 3) : left + 11] = True
        hottest = np.unravel_index(one.argmax(), one.shape)
        assert inside[hottest]
        assert one[inside].mean() > 3 * one[~inside].mean()


def test_each_image_has_its_own_label_whatever_the_batch(trained, monkeypatch):
    images, _, _ = squares(7, 5)
    zeros, ones = (gradcam(trained, images, [label] * 5) for label in (0, 1))
    assert not np.allclose(zeros, ones, atol=0.1)
    monkeypatch.setattr("trainer.report.gradcam.BATCH", 2)
    mixed = gradcam(trained, images, [0, 1, 0, 1, 0])
    np.testing.assert_allclose(mixed[::2], zeros[::2], atol=1e-5)
    np.testing.assert_allclose(mixed[1::2], ones[1::2], atol=1e-5)


def test_it_is_the_formula_of_the_paper(trained):
    """Checked by finite differences of the score, on the map of one image."""
    from trainer.report.gradcam import _take_apart

    images, _, _ = squares(7, 2)
    to_map, to_scores = _take_apart(trained)
    maps = keras.ops.convert_to_numpy(to_map(images[1:])[0])
    step = 1e-2
    weights = []
    for channel in range(maps.shape[-1]):
        moved = maps.copy()
        moved[..., channel] += step
        up = keras.ops.convert_to_numpy(to_scores(moved))[0, 1]
        moved[..., channel] -= 2 * step
        weights.append((up - keras.ops.convert_to_numpy(to_scores(moved))[0, 1]) / (2 * step))
    coarse = np.maximum((maps * weights).sum(-1), 0)[0]
    heat = gradcam(trained, images[1:], [1])[0]
    # At the centre of a cell of the map, linear interpolation of 2 x 2 pixels a cell mixes in its neighbours.
    cells = heat.reshape(coarse.shape[0], 2, coarse.shape[1], 2).mean((1, 3))
    assert np.corrcoef(cells.ravel(), coarse.ravel())[0, 1] > 0.97


@pytest.mark.parametrize("name", ["cnn3", "xception-small"])
def test_other_models(name):
    keras.utils.set_random_seed(3)
    model = classifier(name, labels=8, channels=3)
    images = np.random.default_rng(0).integers(0, 255, (2, SIDE, SIDE, 3), np.uint8)
    assert has_feature_map(model)
    heats = np.stack([gradcam(model, images, [label] * 2) for label in range(8)])
    hottest = heats.max((1, 2, 3))  # 0 for a label that nothing speaks for, as may be with random weights
    assert np.isfinite(heats).all() and heats.min() >= 0 and heats.max() == 1 and set(hottest) <= {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext-tiny", "resnet18", "vgg16", "resnet50", "densenet121", "efficientnetv2-b0"])
def test_large_models(name):
    test_other_models(name)


@pytest.mark.parametrize("compute", ["bfloat16", "float16"])
def test_mixed_precision(compute, trained):
    with policy(compute):
        model = classifier("cnn-separable", options=SMALL)
    model.set_weights(trained.get_weights())
    images, labels, _ = squares(7, 8)
    images = images[labels == 1]
    exact, rough = (gradcam(one, images, [1] * 4) for one in (trained, model))
    assert np.abs(exact - rough).mean() < 0.05


def test_explaining_leaves_the_model_as_it_was(trained):
    images, _, _ = squares(7, 4)
    before = trained.predict(images, verbose=0)
    gradcam(trained, images, [1] * 4)
    np.testing.assert_array_equal(trained.predict(images, verbose=0), before)


def test_a_model_without_a_map_of_features():
    assert not has_feature_map(classifier("mlp"))


@pytest.mark.parametrize("channels", [1, 3])
def test_overlay(channels):
    image = np.full((8, 6, channels), 127, np.uint8)
    heat = np.zeros((8, 6), np.float32)
    heat[2, 3] = 1
    picture = overlay(image, heat)
    assert picture.shape == (8, 6, 3) and picture.dtype == np.uint8
    cold = np.delete(picture.reshape(-1, 3), 2 * 6 + 3, axis=0)
    assert (cold == 127).all()
    red, green, blue = picture[2, 3].astype(int)
    assert min(red, green) > 160 and blue < 160, "the warm end of the colour map is pale yellow"

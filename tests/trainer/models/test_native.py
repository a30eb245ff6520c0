"""Images at their own size: padding changes nothing, in the models and in the layers before them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import keras
import numpy as np
import pytest

from cxr.errors import InputError
from trainer.augmentation import Augmentation
from trainer.augmentation.layer import ExtendBorders
from trainer.models import build_model, check_native
from trainer.models.native import ImageSizes
from trainer.models.pixels import Equalize, Normalize

CONV = {"filters": [4, 6], "convolutions": [2], "dense": []}
MODELS = [
    ("cnn-separable", {**CONV, "block": "plain", "pool": "max", "normalization": "group", "activation": "tanh"}),
    ("cnn-separable", {**CONV, "block": "separable", "pool": "average", "normalization": "batch", "kernel": 4}),
    ("cnn-separable", {**CONV, "block": "residual", "pool": "stride", "normalization": "layer", "final": "max"}),
    ("cnn3", {**CONV, "block": "residual", "pool": "max", "normalization": "none", "final": "average"}),
    ("xception-small", {"filters": [8, 8], "normalization": "batch", "final": "max"}),
    ("xception-small", {"filters": [8], "normalization": "group"}),
    ("resnet18", {"filters": 8, "depths": [1, 1], "normalization": "batch"}),
    ("resnet18", {"filters": 8, "depths": [1, 1], "normalization": "none", "final": "max"}),
]
SIZES = [(37, 52), (48, 33)]


def padded(images: np.ndarray, height: int, width: int, fill: float = 0) -> dict[str, np.ndarray]:
    """Images at the top left of a larger batch, and where they are."""
    batch = np.full((len(images), height, width, images.shape[-1]), fill, images.dtype)
    mask = np.zeros((len(images), height, width, 1), bool)
    place = np.s_[:, : images.shape[1], : images.shape[2]]
    batch[place], mask[place] = images, True
    return {"image": batch, "mask": mask}


def native_model(name: str, options: dict, before: Sequence[keras.layers.Layer] = ()) -> keras.Model:
    """A classifier of two labels, behind layers that take images and their sizes."""
    images = keras.Input((None, None, 1), name="image")
    mask = keras.Input((None, None, 1), dtype="bool", name="mask")
    pixels, sizes = images, ImageSizes()(mask)
    for layer in before:
        pixels = layer(pixels, sizes)
    inputs = {"image": images, "mask": mask}
    return keras.Model(inputs, build_model(name, pixels, 2, options=options, sizes=sizes))


def noise(height: int, width: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(height).uniform(0, 1, (2, height, width, channels)).astype(np.float32)


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_padding_does_not_change_a_prediction(name, options):
    keras.utils.set_random_seed(1)
    model = native_model(name, options)
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:  # biases too: what they add outside of an image must not come back in
        weight.assign(weight + 0.1 * rng.standard_normal(weight.shape))
    for height, width in SIZES:
        image = noise(height, width)
        expected, *others = (
            keras.ops.convert_to_numpy(model(padded(image, *shape, fill)))
            for shape, fill in (((height, width), 0), ((height + 3, width + 1), 7), ((96, 64), -3))
        )
        for found in others:
            np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("pool", ["max", "average", "stride"])
def test_without_padding_it_is_the_model_of_one_size(pool):
    options = {**CONV, "block": "residual", "pool": pool}
    image, built = noise(64, 48), []
    for native in (False, True):
        keras.utils.set_random_seed(5)
        if native:
            model = native_model("cnn-separable", options)
        else:
            pixels = keras.Input((64, 48, 1))
            model = keras.Model(pixels, build_model("cnn-separable", pixels, 2, options=options))
        built.append(keras.ops.convert_to_numpy(model(padded(image, 64, 48) if native else image)))
    np.testing.assert_allclose(built[0], built[1], atol=1e-6)


def test_batch_statistics_are_of_the_images_only():
    """Batch normalisation learns the same averages from padded images, whatever is in the padding."""
    averages = []
    for shape, fill in (((40, 40), 0), ((64, 48), 9)):
        keras.utils.set_random_seed(2)
        model = native_model("cnn-separable", CONV)
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=keras.backend.backend() == "tensorflow")
        model.train_on_batch(padded(noise(40, 40), *shape, fill), np.array([0, 1]))
        averages.append([keras.ops.convert_to_numpy(v) for v in model.non_trainable_variables if "moving" in v.path])
    assert len(averages[0]) >= 4
    for one, other in zip(*averages, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layer", [Equalize(), Normalize("image")], ids=["equalize", "normalize"])
def test_pixels_are_brought_to_the_same_values(layer, channels):
    for height, width in SIZES:
        image = noise(height, width, channels)
        batch = padded(image, 64, 64, 0.5)
        sizes = np.array([[height, width]] * 2, np.int32)
        found = keras.ops.convert_to_numpy(layer(batch["image"], sizes))[:, :height, :width]
        np.testing.assert_allclose(found, keras.ops.convert_to_numpy(layer(image)), atol=2e-5)


@pytest.mark.parametrize(("options", "exact"), [
    ({"shift": 0.2, "rotation_degrees": 20, "zoom": 0.2}, True),
    ({"flip": True}, True),
    ({"brightness": 0.3, "contrast": 0.5, "gamma": 0.3}, True),
    ({"erasing_area": 0.3}, True),
    ({"blur_sigma": 5}, False),
    ({"rescale_factor": 3}, False),
    ({"noise_sigma": 0.02}, False),
    ({"jpeg_quality": 60}, False),
])  # fmt: skip
def test_augmentation_of_a_padded_image_is_that_of_the_image(options, exact):
    """Geometry, tone and covering act on the image as if there were no padding; the others see none of its black."""
    image = 0.4 + 0.2 * noise(40, 56)
    sizes, batch = np.array([[40, 56]] * 2, np.int32), padded(image, 64, 64)["image"]
    extended = ExtendBorders()(batch, sizes, training=True)
    (layer,), (other,) = (Augmentation(**options).layers(seed=3) for _ in range(2))
    changed = False
    for _ in range(3):
        expected = keras.ops.convert_to_numpy(layer(image, training=True))
        found = keras.ops.convert_to_numpy(other(extended, sizes, training=True))[:, :40, :56]
        changed |= not np.array_equal(found, image)
        if exact:
            np.testing.assert_allclose(found, expected, atol=1e-3)
        else:
            assert found.min() > 0.25 and found.max() < 0.75
    assert changed


@pytest.mark.parametrize(
    ("name", "options"),
    [("mlp", {}), ("resnet50", {}), ("cnn3", {}), ("cnn-separable", {"final": "flatten"})],
)
def test_other_models_are_refused_by_name(name, options):
    with pytest.raises(InputError, match="own size: cnn-separable, xception-small, resnet18; cnn3 with"):
        check_native(name, options)


def test_an_empty_image_gives_finite_numbers():
    """Batches are filled up with such."""
    for (name, options), fill in itertools.product(MODELS[:3], (0.0, 1.0)):
        model = native_model(name, options, [Equalize(), Normalize("image")])
        batch = {"image": np.full((1, 16, 16, 1), fill, np.float32), "mask": np.zeros((1, 16, 16, 1), bool)}
        assert np.isfinite(keras.ops.convert_to_numpy(model(batch))).all()

"""Every model at every kind of image, its options, its pretrained weights, and what of it is trained."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest

from tfrecords.errors import InputError
from trainer.models import (
    MODELS,
    build_backbone,
    build_classifier,
    build_head,
    check_model,
    check_weights,
    describe_options,
    expected_pixels,
    model_options,
    set_trainable,
)
from trainer.models.applications import APPLICATIONS, load_application
from trainer.models.heads import find_backbone
from trainer.models.layers import leaf_layers

OWN = [name for name, spec in MODELS.items() if not spec.pretrained]
LARGE = ["resnet50", "densenet121", "efficientnetv2-b0", "convnext-tiny", "vgg19"]
QUICK = [name for name in MODELS if name not in LARGE]
ALL = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]

TINY = {"filters": (4, 8), "block": "plain", "dense": (8,)}


def classifier(name: str, shape=(32, 32, 1), labels: int = 2, **arguments) -> keras.Model:
    pixels = keras.Input(shape)
    return keras.Model(pixels, build_classifier(name, pixels, labels, **arguments))


def images(shape, n: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (n, *shape)).astype(np.float32)


@contextmanager
def policy(name: str) -> Iterator[None]:
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_dtype_policy(before)


# What the models are


def test_naming_models_loads_nothing_heavy():
    code = "import sys, trainer.models; print({'keras', 'tensorflow', 'jax', 'h5py', 'numpy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"


@pytest.mark.parametrize("name", ALL)
def test_probabilities_at_two_shapes_and_channels(name):
    for shape, labels in (((32, 32, 1), 2), ((48, 40, 3), 3)):
        model = classifier(name, shape, labels)
        probabilities = model.predict(images(shape), verbose=0)
        assert probabilities.shape == (2, labels) and probabilities.dtype == np.float32
        assert probabilities.min() >= 0
        np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
        keras.backend.clear_session()


@pytest.mark.parametrize("name", OWN)
def test_own_models_take_16_pixels(name):
    model = classifier(name, (16, 16, 1))
    assert np.isfinite(model.predict(images((16, 16, 1)), verbose=0)).all()


@pytest.mark.parametrize("name", ["cnn-separable", "xception-small", "resnet18", "vgg16"])
def test_images_of_several_sizes(name):
    model = classifier(name, (None, None, 1))
    for shape in ((32, 48, 1), (56, 32, 1)):
        assert model.predict(images(shape), verbose=0).shape == (2, 2)


@pytest.mark.parametrize("name", ["cnn3", "mlp"])
def test_flattening_needs_one_size(name):
    with pytest.raises(InputError, match="one image size only"):
        classifier(name, (None, None, 1))


def test_several_labels_an_image_have_probabilities_of_their_own():
    model = classifier("cnn-separable", labels=3, multi_label=True, options=TINY)
    probabilities = model.predict(images((32, 32, 1), 4), verbose=0)
    assert probabilities.shape == (4, 3) and np.ptp(probabilities.sum(-1)) > 1e-4
    scores = keras.Model(model.input, model.get_layer("scores").output).predict(images((32, 32, 1), 4), verbose=0)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-scores)), atol=1e-5)
    assert classifier("mlp", labels=1, multi_label=True).output_shape == (None, 1)


def test_too_few_labels():
    with pytest.raises(InputError, match="at least 2"):
        classifier("mlp", labels=1)
    with pytest.raises(InputError, match="at least 1"):
        classifier("mlp", labels=0, multi_label=True)


@pytest.mark.parametrize(
    ("name", "trained", "fixed"),
    [
        ("mlp", 656_386, 0),  # 1024 x 512 + 512, 512 x 256 + 256, 256 x 2 + 2
        ("mlp-tanh", 131_458, 0),
        ("cnn3", 355_202, 0),
        ("cnn-separable", 53_634, 768),
        ("xception-small", 743_970, 5_824),
        ("resnet18", 11_170_242 + 1_026 - 1_026, 9_600),  # 11,176,512 of the paper's for 3 channels, without its head
    ],
)
def test_numbers_of_weights(name, trained, fixed):
    model = classifier(name)
    assert sum(weight.size for weight in map(np.asarray, model.get_weights())) == model.count_params()
    assert set_trainable(model, "all") == trained
    assert model.count_params() == trained + fixed


def test_resnet18_is_the_published_one():
    model = classifier("resnet18", (64, 64, 3), labels=1000)
    assert set_trainable(model, "all") == 11_689_512


def test_cnn_separable_does_not_grow_with_the_images():
    assert classifier("cnn-separable", (32, 32, 1)).count_params() == classifier("cnn-separable", (512, 512, 1)).count_params()


@pytest.mark.parametrize("name", ["mlp", "cnn3", "cnn-separable", "xception-small", "resnet18"])
def test_a_step_changes_all_that_is_trained(name):
    model = classifier(name, (48, 48, 1), 3)
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    before = [keras.ops.convert_to_numpy(weight).copy() for weight in model.weights]
    model.train_on_batch(images((48, 48, 1), 8), np.arange(8) % 3)
    for weight, old in zip(model.weights, before, strict=True):
        assert np.any(keras.ops.convert_to_numpy(weight) != old), weight.path


@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("model", ["cnn-separable", "xception-small", "vgg16"])
def test_mixed_precision_ends_in_float32(name, model):
    with policy(name):
        built = classifier(model, (32, 32, 1), 3)
        compute = name.removeprefix("mixed_")
        assert {layer.compute_dtype for layer in leaf_layers(find_backbone(built)) if layer.weights} == {compute}
        assert built.get_layer("scores").compute_dtype == "float32"
        probabilities = built.predict(images((32, 32, 1)), verbose=0)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn3", "xception-small", "resnet18"])
def test_weights_and_models_are_saved_and_loaded(name, tmp_path):
    model, other = classifier(name), classifier(name)
    expected = model.predict(images((32, 32, 1)), verbose=0)
    model.save_weights(tmp_path / "a.weights.h5")
    other.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_allclose(other.predict(images((32, 32, 1)), verbose=0), expected, atol=1e-6)
    model.save(tmp_path / "a.keras")
    loaded = keras.saving.load_model(tmp_path / "a.keras")
    np.testing.assert_allclose(loaded.predict(images((32, 32, 1)), verbose=0), expected, atol=1e-6)


def test_validation_is_of_use_after_few_steps():
    """With Keras's own momentum of 0.99 the averages of batch normalisation are still those of the beginning."""
    random = np.random.default_rng(0)
    labels = np.arange(256) % 2
    pixels = random.normal(0, 1, (256, 16, 16, 1)).astype(np.float32)
    pixels[labels == 1, :8] += 1.5
    accuracies = {}
    for momentum in (None, 0.99):
        keras.utils.set_random_seed(0)
        model = classifier("cnn-separable", (16, 16, 1), options={"dropout": 0})
        if momentum:
            for layer in leaf_layers(model):
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.momentum = momentum
        model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(pixels, labels, batch_size=16, epochs=2, verbose=0)
        accuracies[momentum] = model.evaluate(pixels, labels, verbose=0)[0]
    assert accuracies[None] < 0.2 < accuracies[0.99]


# Options


@pytest.mark.parametrize(
    ("name", "changes", "attribute", "value"),
    [
        ("cnn-separable", {"filters": "32,64", "block": "plain"}, "filters", (32, 64)),
        ("cnn-separable", {"kernel": "5"}, "kernel", 5),
        ("cnn-separable", {"dropout": "0.1"}, "dropout", 0.1),
        ("cnn-separable", {"dropout": 0}, "dropout", 0.0),
        ("cnn-separable", {"dense": "none"}, "dense", ()),
        ("cnn-separable", {"dense": 64}, "dense", (64,)),
        ("cnn-separable", {"dense": [64, np.int64(32)]}, "dense", (64, 32)),
        ("resnet18", {"depths": "3,4,6,3"}, "depths", (3, 4, 6, 3)),
    ],
)
def test_options_from_values_and_from_text(name, changes, attribute, value):
    options = model_options(name, changes)
    assert getattr(options, attribute) == value
    assert type(getattr(options, attribute)) is type(value)
    check_model(name, changes)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("cnn", {}, "did you mean cnn3.*expected one of mlp, "),
        ("cnn-separable", {"kernels": 3}, "no option 'kernels'. Did you mean kernel"),
        ("mlp", {"filters": 3}, "no option 'filters'. It has activation, dense, dropout"),
        ("cnn-separable", {"kernel": 0}, "kernel=0: expected a whole number from 1 to 15"),
        ("cnn-separable", {"kernel": "3.5"}, "kernel='3.5': expected a whole number"),
        ("cnn-separable", {"kernel": 3.0}, "kernel=3.0"),
        ("cnn-separable", {"kernel": True}, "kernel=True"),
        ("cnn-separable", {"dropout": "nan"}, "dropout='nan'"),
        ("cnn-separable", {"dropout": 1}, "dropout=1: expected a number from 0 to 0.95"),
        ("cnn-separable", {"dropout": None}, "dropout=None"),
        ("cnn-separable", {"filters": ""}, "filters=''"),
        ("cnn-separable", {"filters": "none"}, "filters='none'"),
        ("cnn-separable", {"block": "dense"}, "each one of plain, separable, residual"),
        ("cnn-separable", {"block": "plain,separable"}, "names 2 blocks and filters=32,32,64,64 4"),
        ("cnn-separable", {"pool": "min"}, "one of max, average, stride"),
        ("resnet18", {"final": "flatten"}, "final='flatten': expected one of average, max"),
    ],
)
def test_bad_options(name, changes, said):
    with pytest.raises(InputError, match=said):
        check_model(name, changes)


@pytest.mark.parametrize(
    "options",
    [
        {"block": "residual"},
        {"block": "residual", "pool": "stride", "convolutions": 2},
        {"block": "separable,residual", "pool": "average"},
        {"normalization": "group", "activation": "gelu"},
        {"normalization": "layer", "final": "max"},
        {"normalization": "none", "final": "flatten", "dense": "16,8", "block_dropout": 0.2},
        {"kernel": 5, "dense": "none", "pool": "stride"},
    ],
)
def test_what_a_search_varies_builds_and_trains(options):
    model = classifier("cnn-separable", (24, 20, 1), options=TINY | options)
    model.compile("sgd", "sparse_categorical_crossentropy")
    loss = model.train_on_batch(images((24, 20, 1), 4), np.arange(4) % 2)
    assert np.isfinite(loss)


def test_options_change_what_they_say():
    def layers(**options) -> list[str]:
        model = classifier("cnn-separable", (32, 32, 1), options=TINY | options)
        return [type(layer).__name__ for layer in leaf_layers(model)]

    assert layers(block="separable").count("SeparableConv2D") == 4  # two a block
    assert layers(convolutions=3).count("Conv2D") == 6
    assert layers(block="residual").count("Add") == 2
    assert "AveragePooling2D" in layers(pool="average") and "MaxPooling2D" not in layers(pool="stride")
    assert layers(normalization="group").count("GroupNormalization") == 4
    assert layers(normalization="none").count("BatchNormalization") == 0
    assert layers(dense="8,8,8").count("Dense") == 4
    strided = classifier("cnn-separable", (32, 32, 1), options=TINY | {"pool": "stride", "final": "flatten"})
    pooled = classifier("cnn-separable", (32, 32, 1), options=TINY | {"pool": "max", "final": "flatten"})
    assert find_backbone(strided).output_shape == find_backbone(pooled).output_shape == (None, 8 * 8 * 8)


def test_described_options_can_be_given_back():
    for name, spec in MODELS.items():
        rows = describe_options(spec.options)
        assert model_options(name, {option: value for option, value, _ in rows}) == spec.options
        assert all(": " in about for _, _, about in rows)


@pytest.mark.parametrize("shape", [(32, 32, 2), (32, 32)])
def test_images_that_no_model_takes(shape):
    with pytest.raises(InputError, match="1 or 3"):
        classifier("cnn3", shape)


def test_published_models_take_32_pixels_or_more():
    with pytest.raises(InputError, match="16 x 64 pixels are too small; expected at least 32"):
        classifier("vgg16", (16, 64, 1))


# Pretrained weights


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, Path]:
    """Weights of a VGG-16 and others, in each form, and a picture of what the first says."""
    folder = tmp_path_factory.mktemp("weights")
    keras.utils.set_random_seed(5)
    base = load_application("vgg16", (None, None, 3), "average", "none")
    made = {"new": folder / "vgg.weights.h5", "whole": folder / "vgg.keras", "old": folder / "vgg.h5"}
    base.save_weights(made["new"])
    base.save(made["whole"])
    with pytest.warns(UserWarning, match="saving your model as an HDF5") if False else _quiet():
        _save_old(base, made["old"])
    np.save(folder / "features.npy", base.predict(_caffe(images((32, 32, 3))), verbose=0))
    made["features"] = folder / "features.npy"
    made["cut"] = folder / "cut.weights.h5"
    made["cut"].write_bytes(made["new"].read_bytes()[: 1 << 20])
    made["text"] = folder / "text.weights.h5"
    made["text"].write_text("weights")
    made["png"] = folder / "image.png"
    made["png"].write_bytes(b"\x89PNG")
    made["renamed"] = folder / "renamed.weights.h5"
    made["renamed"].write_bytes(made["old"].read_bytes())
    grey = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 1), pooling="avg")
    made["grey"] = folder / "grey.weights.h5"
    grey.save_weights(made["grey"])
    made["other"] = folder / "other.weights.h5"
    classifier("resnet18").save_weights(made["other"])
    return made

"""Every model at every kind of image, its options, its pretrained weights, and what of it is trained."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from cxr.errors import InputError
from trainer.models import MODELS, build_backbone, build_model, check_weights, model_options
from trainer.models.applications import APPLICATIONS, _preprocess
from trainer.models.heads import find_backbone, set_trainable
from trainer.models.layers import leaf_layers
from trainer.models.model_options import describe_options
from trainer.models.weights import load_weights
from trainer.training.precision import policy

OWN = [name for name, spec in MODELS.items() if not spec.pretrained]
LARGE = ["resnet50", "densenet121", "efficientnetv2-b0", "convnext-tiny", "vgg19"]
QUICK = [name for name in MODELS if name not in LARGE]
ALL = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]

TINY = {"filters": (4, 8), "block": "plain", "convolutions": 2, "dense": (8,)}
NARROW = {"xception-small": {"filters": 16}, "resnet18": {"filters": 8}}
"""Fewer channels for what does not depend on them."""


def classifier(name: str, shape=(32, 32, 1), labels: int = 2, **arguments) -> keras.Model:
    pixels = keras.Input(shape)
    return keras.Model(pixels, build_model(name, pixels, labels, **arguments))


def images(shape, n: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (n, *shape)).astype(np.float32)


def call(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """What the model says. TensorFlow need not compile it for that; JAX would compile each operation."""
    if keras.backend.backend() != "tensorflow":
        return model.predict(pixels, verbose=0)
    return model(pixels, training=False).numpy()


def values(weights: list[keras.Variable]) -> list[np.ndarray]:
    """Copies."""
    return [keras.ops.convert_to_numpy(weight).copy() for weight in weights]


def train_a_step(model: keras.Model, pixels: np.ndarray, labels: int = 2) -> float:
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=keras.backend.backend() == "tensorflow")
    return model.train_on_batch(pixels, np.arange(len(pixels)) % labels)


# What the models are


def test_naming_models_loads_nothing_heavy():
    code = "import sys, trainer.models; print({'keras', 'tensorflow', 'jax', 'h5py', 'numpy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"


@pytest.mark.parametrize("name", ALL)
def test_probabilities_at_two_shapes_and_channels(name):
    smallest = 16 if name in OWN else 32
    for shape, labels in (((smallest, smallest, 1), 2), ((48, 40, 3), 3)):
        probabilities = call(classifier(name, shape, labels), images(shape))
        assert probabilities.shape == (2, labels) and probabilities.dtype == np.float32
        assert probabilities.min() >= 0
        np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
        keras.backend.clear_session()


@pytest.mark.parametrize("name", ["cnn-separable", "xception-small", "resnet18", "vgg16"])
def test_images_of_several_sizes(name):
    model = classifier(name, (None, None, 1))
    for shape in ((32, 48, 1), (56, 32, 1)):
        assert call(model, images(shape)).shape == (2, 2)


@pytest.mark.parametrize(("name", "arguments", "message"), [
    ("cnn3", {"shape": (None, None, 1)}, "one image size only"),
    ("mlp", {"shape": (None, None, 1)}, "one image size only"),
    ("mlp", {"labels": 1}, "at least 2"),
    ("mlp", {"labels": 0, "multi_label": True}, "at least 1"),
    ("cnn3", {"shape": (32, 32, 2)}, "1 or 3"),
    ("cnn3", {"shape": (32, 32)}, "1 or 3"),
    ("vgg16", {"shape": (16, 64, 1)}, "16 x 64 pixels are too small; expected at least 32"),
    ("cnn3", {"weights": "imagenet"}, "takes no pretrained weights"),
])  # fmt: skip
def test_what_cannot_be_built(name, arguments, message):
    with pytest.raises(InputError, match=message):
        classifier(name, **arguments)


def test_several_labels_an_image_have_probabilities_of_their_own():
    model = classifier("cnn-separable", labels=3, multi_label=True, options=TINY)
    probabilities = call(model, images((32, 32, 1), 4))
    assert probabilities.shape == (4, 3) and np.ptp(probabilities.sum(-1)) > 1e-4
    scores = call(keras.Model(model.input, model.get_layer("scores").output), images((32, 32, 1), 4))
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-scores)), atol=1e-5)
    assert classifier("mlp", labels=1, multi_label=True).output_shape == (None, 1)


@pytest.mark.parametrize(("name", "trained", "fixed"), [
    ("mlp", 656_642, 0),  # 1024 x 512 + 512, 512 x 256 + 256, 256 x 2 + 2
    ("mlp-tanh", 131_458, 0),
    ("cnn3", 355_202, 0),
    ("cnn-separable", 35_074, 640),
    ("xception-small", 744_482, 5_824),
    ("resnet18", 11_171_266, 9_600),
])  # fmt: skip
def test_numbers_of_weights(name, trained, fixed):
    model = classifier(name)
    assert sum(weight.size for weight in map(np.asarray, model.get_weights())) == model.count_params()
    assert set_trainable(model, "all") == trained
    assert model.count_params() == trained + fixed


def test_resnet18_is_the_published_one():
    model = classifier("resnet18", (64, 64, 3), labels=1000)
    assert set_trainable(model, "all") == 11_689_512


def test_cnn_separable_does_not_grow_with_the_images():
    small, large = (classifier("cnn-separable", (side, side, 1)) for side in (32, 512))
    assert small.count_params() == large.count_params()


@pytest.mark.parametrize("name", ["mlp", "cnn3", "cnn-separable", "xception-small", "resnet18"])
def test_a_step_changes_all_that_is_trained(name):
    model = classifier(name, (48, 48, 1), 3, options=NARROW.get(name))
    before = values(model.weights)
    train_a_step(model, images((48, 48, 1), 8), 3)
    for weight, old, new in zip(model.weights, before, values(model.weights), strict=True):
        assert np.any(new != old), weight.path


@pytest.mark.parametrize(
    ("compute", "name"), [("float16", "cnn-separable"), ("bfloat16", "xception-small"), ("bfloat16", "vgg16")]
)
def test_mixed_precision_ends_in_float32(compute, name):
    with policy(compute):
        model = classifier(name, (32, 32, 1), 3)
    assert {layer.compute_dtype for layer in leaf_layers(find_backbone(model)) if layer.weights} == {compute}
    assert model.get_layer("scores").compute_dtype == "float32"
    probabilities = call(model, images((32, 32, 1)))
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn3", "cnn-separable", "xception-small", "resnet18"])
def test_weights_and_models_are_saved_and_loaded(name, tmp_path):
    model, other = (classifier(name, options=NARROW.get(name)) for _ in range(2))
    model.save_weights(tmp_path / "a.weights.h5")
    other.load_weights(tmp_path / "a.weights.h5")
    model.save(tmp_path / "a.keras")
    pixels = images((32, 32, 1))
    for again in (other, keras.saving.load_model(tmp_path / "a.keras")):
        np.testing.assert_allclose(call(again, pixels), call(model, pixels), atol=1e-6)


def test_validation_is_of_use_after_few_steps():
    """With Keras's own momentum of 0.99 the averages of batch normalisation are still those of the beginning."""
    random = np.random.default_rng(0)
    labels = np.arange(256) % 2
    pixels = random.normal(0, 1, (256, 16, 16, 1)).astype(np.float32)
    pixels[labels == 1, :8] += 1.5
    pixels += 3
    losses = {}
    for momentum in (None, 0.99):
        keras.utils.set_random_seed(0)
        model = classifier("cnn-separable", (16, 16, 1), options=TINY | {"convolutions": 1, "dropout": 0})
        if momentum:
            for layer in leaf_layers(model):
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.momentum = momentum
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        model.fit(pixels, labels, batch_size=8, epochs=1, verbose=0)
        losses[momentum] = model.evaluate(pixels, labels, batch_size=64, verbose=0)
    assert losses[None] < 0.5 * losses[0.99], losses


# Options


@pytest.mark.parametrize(("name", "changes", "attribute", "value"), [
    ("cnn-separable", {"filters": "32,64", "block": "plain"}, "filters", (32, 64)),
    ("cnn-separable", {"kernel": "5"}, "kernel", 5),
    ("cnn-separable", {"dropout": "0.1"}, "dropout", 0.1),
    ("cnn-separable", {"dropout": 0}, "dropout", 0.0),
    ("cnn-separable", {"dense": "none"}, "dense", ()),
    ("cnn-separable", {"dense": 64}, "dense", (64,)),
    ("cnn-separable", {"dense": [64, np.int64(32)]}, "dense", (64, 32)),
    ("resnet18", {"depths": "3,4,6,3"}, "depths", (3, 4, 6, 3)),
])  # fmt: skip
def test_options_from_values_and_from_text(name, changes, attribute, value):
    options = model_options(name, changes)
    assert getattr(options, attribute) == value
    assert type(getattr(options, attribute)) is type(value)


@pytest.mark.parametrize(("name", "changes", "said"), [
    ("cnn", {}, "expected one of mlp, .*; did you mean cnn3"),
    ("cnn-separable", {"kernels": 3}, "no option 'kernels'; did you mean kernel"),
    ("mlp", {"filters": 3}, "no option 'filters'; known are dense, dropout, activation"),
    ("cnn-separable", {"kernel": 0}, "kernel=0: expected a whole number from 1 to 15"),
    ("cnn-separable", {"kernel": "3.5"}, "kernel='3.5': expected a whole number"),
    ("cnn-separable", {"dropout": 1}, "dropout=1: expected a number from 0 to 0.95"),
    ("cnn-separable", {"dropout": None}, "dropout=None"),
    ("cnn-separable", {"filters": "none"}, "filters='none'"),
    ("cnn-separable", {"block": "dense"}, "each one of plain, separable, residual"),
    ("cnn3", {"block": "plain,plain,plain,separable"}, "is for 4 blocks, and filters=32,64,128 for 3"),
    ("cnn-separable", {"filters": "8", "convolutions": "1,2"}, "convolutions=1,2 is for 2 blocks"),
    ("cnn-separable", {"pool": "min"}, "one of max, average, stride"),
    ("resnet18", {"final": "flatten"}, "final='flatten': expected one of average, max"),
])  # fmt: skip
def test_bad_options(name, changes, said):
    with pytest.raises(InputError, match=said):
        model_options(name, changes)


@pytest.mark.parametrize("options", [
    {"block": "residual"},
    {"block": "residual", "pool": "stride", "convolutions": 2},
    {"block": "separable,residual", "pool": "average"},
    {"normalization": "group", "activation": "gelu"},
    {"normalization": "layer", "final": "max"},
    {"normalization": "none", "final": "flatten", "dense": "16,8", "block_dropout": 0.2},
    {"kernel": 5, "dense": "none", "pool": "stride"},
])  # fmt: skip
def test_what_a_search_varies_builds_and_trains(options):
    assert np.isfinite(
        train_a_step(classifier("cnn-separable", (24, 20, 1), options=TINY | options), images((24, 20, 1)))
    )


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


@pytest.mark.parametrize(("filters", "blocks"), [
    ("32,64", [(32, "plain", 1), (64, "plain", 1)]),
    ("8,8,8,8,9", [(8, "plain", 1)] * 2 + [(8, "separable", 2)] * 2 + [(9, "separable", 2)]),
])  # fmt: skip
def test_more_or_fewer_blocks_need_no_other_option(filters, blocks):
    assert model_options("cnn-separable", {"filters": filters}).blocks == blocks


def test_described_options_can_be_given_back():
    for name, spec in MODELS.items():
        rows = describe_options(spec.options)
        assert model_options(name, {option: value for option, value, _ in rows}) == spec.options
        assert all(": " in about for _, _, about in rows)


# Pretrained weights


def published(images_unit: np.ndarray) -> np.ndarray:
    """Pixels [n, height, width, 3] in [0, 1] as Keras's own preprocessing of VGG-16 has them."""
    return keras.applications.vgg16.preprocess_input(images_unit * 255)


@pytest.fixture(scope="module")
def vgg(tmp_path_factory) -> Iterator[tuple[keras.Model, dict[str, Path]]]:
    """A VGG-16 with random weights, and files of it in every form."""
    folder = tmp_path_factory.mktemp("weights")
    keras.utils.set_random_seed(5)
    base = keras.applications.VGG16(include_top=False, weights=None, input_shape=(None, None, 3), pooling="avg")
    paths = {suffix: folder / f"vgg{suffix}" for suffix in (".weights.h5", ".keras", ".h5")}
    base.save_weights(paths[".weights.h5"])
    base.save(paths[".keras"])
    base.save(paths[".h5"])
    yield base, paths
    for path in paths.values():
        path.unlink()  # 59 MB each


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".h5"])
def test_weights_of_a_file_and_pixels_as_it_knows_them(vgg, suffix):
    base, paths = vgg
    check_weights("vgg16", str(paths[suffix]))
    for channels in (1, 3) if suffix == ".h5" else (1,):
        pixels = keras.Input((32, 40, channels))
        model = keras.Model(pixels, build_backbone("vgg16", pixels, {"dense": "none"}, str(paths[suffix])))
        grey_or_colour = images((32, 40, channels))
        expected = call(base, published(np.broadcast_to(grey_or_colour, (2, 32, 40, 3)).copy()))
        np.testing.assert_allclose(call(model, grey_or_colour), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "vgg16", "vgg19"])
@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessing_is_that_of_keras(name, channels):
    module = getattr(keras.applications, name.removesuffix("121").replace("resnet50", "resnet"))
    pixels = keras.Input((6, 5, channels))
    model = keras.Model(pixels, _preprocess(pixels, APPLICATIONS[name].caffe))
    unit = images((6, 5, channels))
    expected = module.preprocess_input(np.broadcast_to(unit * 255, (2, 6, 5, 3)).copy())
    np.testing.assert_allclose(call(model, unit), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first"), [("efficientnetv2-b0", "stem_conv"), ("convnext-tiny", "convnext_tiny_stem")]
)
def test_preprocessing_is_that_built_into_keras(name, first):
    whole = getattr(keras.applications, APPLICATIONS[name].builder)(
        include_top=False, weights=None, input_shape=(32, 32, 3), include_preprocessing=True
    )
    names = [layer.name for layer in whole.layers]
    theirs = keras.Model(whole.input, whole.layers[names.index(first) - 1].output)
    pixels = keras.Input((32, 32, 3))
    ours = keras.Model(pixels, _preprocess(pixels, APPLICATIONS[name].caffe))
    unit = images((32, 32, 3))
    np.testing.assert_allclose(call(ours, unit), call(theirs, unit * 255), atol=1e-5)


def test_preprocessing_is_saved_and_stays_in_float32(tmp_path):
    with policy("bfloat16"):
        pixels = keras.Input((6, 5, 3), dtype="float32")
        model = keras.Model(pixels, _preprocess(pixels, caffe=True))
    model.save(tmp_path / "m.keras")
    unit = images((6, 5, 3))
    for one in (model, keras.saving.load_model(tmp_path / "m.keras")):
        np.testing.assert_allclose(call(one, unit), published(unit.copy()), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "densenet121", "efficientnetv2-b0", "convnext-tiny", "vgg19"])
def test_files_of_the_other_architectures(name, tmp_path):
    """Also that what was saved with Keras's own preprocessing fits, and that fine-tuning leaves averages alone."""
    keras.utils.set_random_seed(2)
    base = getattr(keras.applications, APPLICATIONS[name].builder)(
        include_top=False, weights=None, input_shape=(64, 64, 3), pooling="avg"
    )
    base.save(tmp_path / "old.h5")
    base.save_weights(tmp_path / "new.weights.h5")
    for file in ("old.h5", "new.weights.h5"):
        check_weights(name, str(tmp_path / file))
    model = classifier(name, (64, 64, 1), weights=str(tmp_path / "old.h5"))
    fixed = [weight for weight in find_backbone(model).weights if "moving_" in weight.path]
    before = values(fixed)
    set_trainable(model, "all")
    still = {type(layer).__name__ for layer in leaf_layers(model) if layer.weights and not layer.trainable}
    assert still <= {"BatchNormalization"}
    train_a_step(model, images((64, 64, 1)))
    for new, old in zip(values(fixed), before, strict=True):
        np.testing.assert_array_equal(new, old)
    with pytest.raises(InputError, match="do not fit model"):
        check_weights("vgg16", str(tmp_path / "old.h5"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "densenet121", "efficientnetv2-b0"])
def test_published_models_from_scratch_have_quick_averages(name):
    model = classifier(name)
    momenta = {layer.momentum for layer in leaf_layers(model) if isinstance(layer, keras.layers.BatchNormalization)}
    assert momenta == {0.9}
    first = next(layer for layer in leaf_layers(model) if isinstance(layer, keras.layers.BatchNormalization))
    (before,) = values([first.moving_variance])
    train_a_step(model, np.zeros((2, 32, 32, 1), np.float32))
    np.testing.assert_allclose(values([first.moving_variance])[0], before * 0.9, rtol=1e-4)


def two_layers(channels: int = 3, second: str = "second", more: bool = False) -> keras.Model:
    pixels = keras.Input((8, 8, channels))
    x = keras.layers.Conv2D(4, 3, name="first")(pixels)
    x = keras.layers.Conv2D(5, 3, name=second)(x)
    return keras.Model(pixels, keras.layers.Conv2D(2, 1, name="top")(x) if more else x)


OF_GREY = "layer 'first' is 3x3x3x4, 4 in the model and 3x3x1x4, 4 in the file"


@pytest.mark.parametrize(("saved", "file", "said"), [
    (two_layers(1), "a.weights.h5", OF_GREY),
    (two_layers(1), "a.h5", OF_GREY),
    (two_layers(1), "a.keras", OF_GREY),
    (two_layers(more=True), "a.h5", "the file has more: layer 'top' of 1x1x5x2, 2"),
])  # fmt: skip
def test_weights_that_do_not_fit(tmp_path, saved, file, said):
    (saved.save_weights if file.endswith(".weights.h5") else saved.save)(tmp_path / file)
    with pytest.raises(InputError, match=f"do not fit model 'two'.*{said}"):
        load_weights("two", two_layers(), tmp_path / file)


def test_weights_of_another_architecture(tmp_path):
    classifier("cnn3").save_weights(tmp_path / "cnn3.weights.h5")
    with pytest.raises(InputError, match=r"cnn3.weights.h5' do not fit model 'vgg16'.*'block1_conv1' of 3x3x3x64, 64"):
        check_weights("vgg16", str(tmp_path / "cnn3.weights.h5"))


def test_files_that_are_no_weights(tmp_path):
    two_layers().save_weights(tmp_path / "whole.weights.h5")
    two_layers().save(tmp_path / "old.h5")
    whole = (tmp_path / "whole.weights.h5").read_bytes()
    for name, content, said in (
        ("cut.weights.h5", whole[: len(whole) // 2], "damaged"),
        ("empty.h5", b"", "damaged"),
        ("text.keras", b"not a zip", "damaged"),
        ("picture.png", b"\x89PNG", "expected one of .weights.h5, .h5, .keras"),
        ("new.h5", whole, r"named \*.weights.h5; rename"),
        ("renamed.weights.h5", (tmp_path / "old.h5").read_bytes(), r"named \*.h5; rename"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=said) as caught:
            load_weights("two", two_layers(), tmp_path / name)
        assert name in str(caught.value)
    for missing in (tmp_path / "missing.h5", tmp_path):
        with pytest.raises(InputError, match="there is no such file"):
            check_weights("vgg16", str(missing))


def test_own_models_take_no_weights():
    for name in OWN:
        check_weights(name, "none")
        for weights in ("imagenet", "a.weights.h5"):
            with pytest.raises(InputError, match=f"'{name}' takes no pretrained weights.*resnet50, densenet121"):
                check_weights(name, weights)


DOWNLOAD = """
import os, socket, sys, time, urllib.request
from cxr.errors import InputError
from trainer.models import applications, check_weights
applications.NETWORK_SECONDS = 1.0
for name, port in zip(sys.argv[1::2], sys.argv[2::2]):
    os.environ["https_proxy"] = f"http://127.0.0.1:{port}"
    urllib.request.install_opener(None)  # it keeps the proxy that it first met
    started = time.monotonic()
    try:
        check_weights(name, "imagenet")
    except InputError as error:
        print(error, "||", error.__cause__, "||", time.monotonic() - started)
    else:
        sys.exit("nothing was raised")
assert socket.getdefaulttimeout() is None
"""


@pytest.fixture
def proxies() -> Iterator[tuple[int, int]]:
    """Ports of two proxies on this machine: one refuses each connection, one accepts it and never answers."""
    with socket.socket() as refusing, socket.socket() as silent:
        for each in (refusing, silent):
            each.bind(("127.0.0.1", 0))
        silent.listen()
        yield refusing.getsockname()[1], silent.getsockname()[1]


def download(home: Path, *names_and_ports: object) -> list[tuple[str, str]]:
    """What is said, and what Keras said, where the only way out are these proxies and nothing is in Keras's cache."""
    environment = {key: value for key, value in os.environ.items() if key.lower() != "no_proxy"}
    done = subprocess.run(
        [sys.executable, "-c", DOWNLOAD, *map(str, names_and_ports)], env={**environment, "KERAS_HOME": str(home)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split(" || ") for line in done.stdout.splitlines() if "||" in line]
    assert len(rows) == len(names_and_ports) // 2 and max(float(seconds) for _, _, seconds in rows) < 60
    return [(said, cause) for said, cause, _ in rows]


@pytest.mark.slow
def test_imagenet_without_a_network(tmp_path, proxies):
    refusing, silent = proxies
    (refused, _), (hung, _) = download(tmp_path, "vgg16", refusing, "vgg16", silent)
    for said in (refused, hung):
        assert "weights of 'vgg16' are not here and cannot be fetched from https://storage.googleapis.com/" in said
        assert "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5" in said
        assert f"put it in {tmp_path / 'models'}, or name it with --weights PATH" in said
    assert "Connection refused" in refused, refused
    assert "timed out" in hung, hung


@pytest.mark.slow
def test_addresses_are_those_of_keras(tmp_path, proxies):
    rows = download(tmp_path, *(word for name in APPLICATIONS for word in (name, proxies[0])))
    for application, (_, cause) in zip(APPLICATIONS.values(), rows, strict=True):
        assert f"URL fetch failure on {application.address}:" in cause


# What is trained


def test_freezing_and_unfreezing(vgg):
    _, paths = vgg
    model = classifier("vgg16", weights=str(paths[".weights.h5"]))
    layers = [layer for layer in leaf_layers(find_backbone(model)) if layer.weights]
    assert len(layers) == 13

    def trained() -> list[bool]:
        return [bool(layer.trainable_weights) for layer in layers]

    head = 512 * 256 + 256 + 256 * 2 + 2
    assert set_trainable(model, "head") == head and trained() == [False] * 13
    last = 9 * 512 * 512 + 512
    assert set_trainable(model, 2) == head + 2 * last and trained() == [False] * 11 + [True] * 2
    assert set_trainable(model, "all") == model.count_params() and trained() == [True] * 13
    assert set_trainable(model, 1000) == model.count_params()
    assert set_trainable(model, "head") == head


def test_a_step_changes_what_is_trained_and_nothing_else():
    model = classifier("cnn-separable", options=TINY)
    set_trainable(model, 2)
    before = values(model.weights)
    train_a_step(model, images((32, 32, 1), 4))
    changed = [bool(np.any(new != old)) for new, old in zip(values(model.weights), before, strict=True)]
    # Four convolutions with batch normalisation (1 + 4 weights each), of which the last is trained; then two dense.
    assert changed == [False] * 15 + [True] * 5 + [True] * 4

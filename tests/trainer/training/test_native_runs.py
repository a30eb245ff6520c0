"""Runs on images at their own size: trained, resumed, evaluated, asked about files, exported."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from cxr.errors import InputError
from tfrecords.streaming.loader import open_loader
from trainer.evaluate import evaluate
from trainer.export import export_run
from trainer.predict import operating_point_of, predict_files
from trainer.report.gradcam import gradcam
from trainer.serving.image_files import FileLoader, list_image_files
from trainer.train import main
from trainer.train_config import TrainConfig
from trainer.training.inputs import native_batch, stream_options
from trainer.training.loop import train
from trainer.training.stopping import Stopped, StopRequest
from trainer.training.trained import load_model
from trainer.training.validation import predict_arrays, predict_split

NATIVE = {
    "image_size": "native", "model": "cnn-separable", "equalize": True, "normalize": "image",
    "model_options": {"filters": [4, 8], "convolutions": [1], "dense": []},
}  # fmt: skip

pytestmark = pytest.mark.timeout(1500)
many_shapes = pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="JAX compiles each shape anew, which takes minutes; one run trains",
)


@pytest.fixture(scope="module")
def native_run(data, start, tmp_path_factory):
    """A finished run of one epoch; not to be changed."""
    run = start(tmp_path_factory.mktemp("native") / "run", data, **NATIVE, epochs=1)
    train(run, data, quiet=True, cache="none")
    return run


def test_every_image_is_trained_on_and_validated(native_run, data):
    row = native_run.read_history()[0]
    assert np.isfinite([row["loss"], row["val_loss"], row["val_auc"]]).all()
    options = stream_options(native_run.config, False, cache="none")
    steps = data.steps_per_epoch("train", **options)
    stream = data.stream("train", **options).take(steps)
    assert sum(len(label) for _, label, _ in stream.as_numpy_iterator()) == data.images("train")
    assert json.loads((native_run.root / "run.json").read_text())["config"]["image_size"] == "native"


@many_shapes
@pytest.mark.slow
def test_resuming_in_mid_epoch_is_exact(native_run, data, start, tmp_path):
    class StopAt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                stop.request()

    run, stop = start(tmp_path / "run", data, **NATIVE, epochs=1), StopRequest()
    with pytest.raises(Stopped):
        train(run, data, callbacks=[StopAt()], stop=stop, quiet=True, cache="none")
    train(run, data, resume=True, quiet=True, cache="none")
    for one, other in zip(load_model(run).variables, load_model(native_run).variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))


@many_shapes
def test_a_file_is_predicted_as_its_record(native_run, data, phantoms):
    model = load_model(native_run)
    predictions = predict_split(model, data, "val", native_run.config)
    assert (np.diff(predictions.rows) > 0).all()  # stored order, though batches come bucket by bucket
    files = list_image_files([str(phantoms / path) for path in predictions.paths[:5]])
    loader = FileLoader(native_run.config, native_run.facts)
    found = list(predict_files(model, loader, files, operating_point_of(native_run)[0]))
    np.testing.assert_allclose([one.probabilities for one in found], predictions.probabilities[:5], atol=1e-5)


@many_shapes
@pytest.mark.slow
def test_evaluation_has_shifts_and_heat(native_run, data, tmp_path):
    metrics = evaluate(native_run, data, "val", bootstrap=10, output=tmp_path, quiet=True)
    assert metrics["shifts"]["noise"]["metrics"]["roc_auc"]["value"] is not None
    report = (tmp_path / "report.html").read_text()
    assert "images at their own size" in report and "cannot say where it looks" not in report


@many_shapes
def test_heat_lies_on_the_image_whatever_the_padding(native_run, data):
    model = load_model(native_run)
    pixels = open_loader(data.root, data.manifest.digest, data.options("val", image_size=None)).reader.image(0)
    height, width, _ = pixels.shape
    batch = native_batch(pixels)
    wider = {name: np.pad(part, ((0, 0), (0, 64), (0, 128), (0, 0))) for name, part in batch.items()}
    heat, other = gradcam(model, batch, [1])[0], gradcam(model, wider, [1])[0]
    assert heat.shape == batch["image"].shape[1:3] and heat.max() > 0
    assert not heat[height:].any() and not heat[:, width:].any()
    np.testing.assert_allclose(other[:height, :width], heat[:height, :width], atol=1e-3)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a SavedModel is TensorFlow's")
def test_an_export_takes_files_of_any_size(native_run, tmp_path):
    check = export_run(native_run, tmp_path / "export", check=4)
    assert check is not None and check.images == 4 and "val of" in check.source


@many_shapes
def test_shapes_of_a_batch_do_not_mix_images(native_run):
    """Of two images of different sizes, each is predicted as by itself."""
    model, rng = load_model(native_run), np.random.default_rng(0)
    channels = native_run.facts.channels
    images = [rng.integers(0, 256, (*side, channels), np.uint8) for side in ((70, 51), (33, 120))]
    batch = {"image": np.zeros((2, 96, 128, channels), np.uint8), "mask": np.zeros((2, 96, 128, 1), bool)}
    for number, image in enumerate(images):
        place = np.s_[number, : image.shape[0], : image.shape[1]]
        batch["image"][place], batch["mask"][place] = image, True
    found = keras.ops.convert_to_numpy(model(batch, training=False))
    np.testing.assert_allclose(predict_arrays(model, images), found, atol=1e-5)


@pytest.mark.parametrize(("fields", "message"), [
    ({"model": "mlp"}, "image_size=native: model 'mlp' takes images of one size only"),
    ({"model": "cnn3"}, "model 'cnn3' final=flatten takes images of one size only"),
    ({"class_weights": "balanced"}, "class_weights='balanced' draws classes equally often"),
    ({"image_size": "whole"}, "16 to 16384 pixels, HEIGHTxWIDTH, or 'native'"),
])  # fmt: skip
def test_what_native_size_cannot_do_is_said_at_once(fields, message):
    with pytest.raises(InputError, match=message):
        TrainConfig.from_json({"image_size": "native", **fields})


@many_shapes
@pytest.mark.slow
def test_from_the_command_line_with_strong_augmentation(data, tmp_path: Path, capsys):
    options = ["--image-size", "native", "--model-options", "filters=4", "convolutions=1", "dense=none", "--quiet",
               "--epochs", "1", "--batch-size", "8", "--augment", "strong", "--cache", "none"]  # fmt: skip
    assert main(["--data", str(data.root), "--run", str(tmp_path / "run"), *options]) == 0
    assert "cnn-separable on images at their own size" in capsys.readouterr().out

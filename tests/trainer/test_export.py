"""An export says what the run says, in a process that has TensorFlow and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cxr.errors import InputError, OutputError
from tfrecords.images import codec
from tfrecords.images.decode import decode
from tfrecords.images.fit_modes import FITS
from trainer import export
from trainer.export import FACTS_NAME, check_export, export_run
from trainer.serving.graph import decode_and_fit
from trainer.serving.image_files import FileLoader, list_image_files
from trainer.training.classifier import build_classifier
from trainer.training.trained import load_model
from trainer.training.validation import predict_images

REPOSITORY = Path(__file__).resolve().parents[2]
BACKEND = keras.backend.backend()
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="a SavedModel is made with Keras on TensorFlow")


def picture(height: int, width: int, channels: int = 1, bit_depth: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 2**bit_depth, (5, 4, channels)).astype(np.uint16 if bit_depth == 16 else np.uint8)
    smooth = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    return smooth ^ rng.integers(0, 8, smooth.shape).astype(smooth.dtype)


def jpeg(pixels: np.ndarray, mode: str | None = None) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    (image.convert(mode) if mode else image).save(file, "JPEG", quality=70)
    return file.getvalue()


def run_python(code: str, *arguments: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=REPOSITORY,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> tuple[Path, str]:
    """An export made by the command, and what it printed; another backend than TensorFlow stays in this process."""
    folder = tmp_path_factory.mktemp("exports") / "model" / "1"
    arguments = ["--run", str(trained.root), "--output", str(folder), "--check", "8"]
    if BACKEND != "tensorflow":
        return folder, run_python("import sys, trainer.export; trainer.export.main(sys.argv[1:])", *arguments)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert export.main(arguments) == 0
    return folder, said.getvalue()


# The whole


@pytest.fixture(scope="module")
def expected(trained, phantoms):
    """(files as bytes, fitted pixels, probabilities) of eight phantoms."""
    files = [Path(file.path).read_bytes() for file in list_image_files([str(phantoms)])[::14]]
    loader = FileLoader(trained.config, trained.facts, through_rung=False)
    images = np.stack([loader.decode(file) for file in files])
    return files, images, predict_images(load_model(trained), images)


def test_it_says_what_the_run_says_without_keras(exported, expected, tmp_path):
    folder, _ = exported
    files, images, probabilities = expected
    np.save(tmp_path / "images.npy", images)
    for number, file in enumerate(files):
        (tmp_path / f"{number:03}.file").write_bytes(file)
    code = """
import sys
from pathlib import Path
sys.modules.update(dict.fromkeys(("keras", "trainer", "tfrecords")))  # who imports one of them fails
import numpy as np, tensorflow as tf
folder, here = map(Path, sys.argv[1:])
signatures = tf.saved_model.load(str(folder)).signatures
files = [path.read_bytes() for path in sorted(here.glob("*.file"))]
arrays = signatures["serving_default"](images=tf.constant(np.load(here / "images.npy")))["probabilities"]
encoded = signatures["from_files"](files=tf.constant(files))["probabilities"]
np.savez(here / "found.npz", arrays=arrays, encoded=encoded)
"""
    run_python(code, folder, tmp_path)
    found = np.load(tmp_path / "found.npz")
    assert found["arrays"].dtype == np.float32 and found["arrays"].shape == probabilities.shape
    np.testing.assert_allclose(found["arrays"], probabilities, atol=1e-6 if BACKEND == "tensorflow" else 1e-4)
    np.testing.assert_allclose(found["encoded"], probabilities, atol=1e-3)
    assert np.ptp(probabilities[:, 0]) > 1e-3  # else anything would be equal


def test_it_was_checked_on_the_data_set_and_says_what_it_is(exported, trained, data):
    folder, said = exported
    assert f"checked on 8 images of val of {data.root}" in said
    facts = json.loads((folder / FACTS_NAME).read_text(encoding="utf-8"))
    assert facts["labels"] == ["NORMAL", "PNEUMONIA"] and facts["positive"] == "PNEUMONIA"
    assert facts["image"] == {"height": 32, "width": 32, "channels": 1, "bit_depth": 8, "fit": "squash"}
    assert facts["operating_point"] is None and facts["config"] == trained.config.to_json()
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_a_wrong_export_is_noticed(exported, trained, data):
    other = build_classifier(dataclasses.replace(trained.config, seed=5), trained.facts)
    with pytest.raises(OutputError, match=r"for pixels its probabilities differ .* images of val of"):
        check_export(trained, other, exported[0], 4)


def test_without_the_data_set_it_is_checked_on_noise(exported, trained):
    gone = dataclasses.replace(trained, facts=dataclasses.replace(trained.facts, path="/absent"))
    check = check_export(gone, load_model(trained), exported[0], 4)
    assert check.images == 4 and "noise" in check.source
    assert check.arrays <= 1e-4 and check.files <= 1e-2


@on_tensorflow
def test_what_is_there_is_kept_unless_it_is_an_export_to_be_replaced(trained, tmp_path, monkeypatch):
    output = tmp_path / "export"
    monkeypatch.setattr(export, "ARRAY_TOLERANCE", -1.0)
    with pytest.raises(OutputError, match="was removed"):
        export_run(trained, output, check=1)
    assert list(tmp_path.iterdir()) == []
    assert export_run(trained, output, check=0) is None
    before = (output / "fingerprint.pb").read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        export_run(trained, output, check=0)
    with pytest.raises(OutputError, match="was removed"):
        export_run(trained, output, overwrite=True, check=1)
    assert (output / "fingerprint.pb").read_bytes() == before
    monkeypatch.undo()
    (output / "stray").touch()
    assert export_run(trained, output, overwrite=True, check=1).arrays <= 1e-6
    assert not (output / "stray").exists()

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").touch()
    with pytest.raises(OutputError, match="no export"):
        export_run(trained, tmp_path / "thesis", overwrite=True)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="for other backends")
def test_another_backend_is_told_so(trained, tmp_path):
    with pytest.raises(InputError, match="KERAS_BACKEND=tensorflow"):
        export_run(trained, tmp_path / "export")


@pytest.mark.slow
def test_weights_of_one_backend_are_those_of_the_other(trained, expected, tmp_path):
    _, images, probabilities = expected
    np.save(tmp_path / "images.npy", images)
    code = """
import sys
from pathlib import Path
import numpy as np
from trainer.training.trained import load_model
from trainer.training.validation import predict_images
here = Path(sys.argv[2])
np.save(here / "found.npy", predict_images(load_model(sys.argv[1]), np.load(here / "images.npy")))
"""
    other = "jax" if BACKEND == "tensorflow" else "tensorflow"
    run_python(code, trained.root, tmp_path, KERAS_BACKEND=other)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), probabilities, atol=1e-4)


# The pixels of from_files

SHAPES = [(32, 48), (77, 53), (20, 131), (9, 7), (32, 20), (1, 1)]


@pytest.mark.parametrize("how", FITS)
def test_files_are_fitted_as_predict_fits_them(how, trained, small):
    unequal = pixels = 0
    for channels, bit_depth in ((1, 8), (3, 8), (1, 16), (3, 16)):
        facts = dataclasses.replace(trained.facts, channels=channels, bit_depth=bit_depth)
        loader = FileLoader(small(image_size=[32, 48], fit=how), facts)

        @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
        def fitted(file, channels=channels, bit_depth=bit_depth):
            return decode_and_fit(file, (32, 48), channels, bit_depth, how)

        for number, (height, width) in enumerate(SHAPES):
            for file in (
                codec.encode_png(picture(height, width, 1, 8, number)),
                codec.encode_png(picture(height, width, 3, 16, number)),
                jpeg(picture(height, width, 1, 8, number)),
                jpeg(picture(height, width, 3, 8, number)),
                jpeg(picture(height, width, 3, 8, number), "CMYK"),
            ):
                expected = loader.decode(file)
                found = fitted(tf.constant(file)).numpy()
                assert found.dtype == expected.dtype and found.shape == expected.shape
                difference = np.abs(found.astype(int) - expected)
                assert difference.max() <= 1
                unequal += np.count_nonzero(difference)
                pixels += difference.size
    assert unequal / pixels < 1e-3


def test_transparency_and_palettes_come_out_as_in_predict(trained, small):
    loader = FileLoader(small(image_size=[32, 48]), trained.facts)
    image = Image.fromarray(picture(40, 60)[..., 0])
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1)))
    transparent = image.convert("LA")
    transparent.putalpha(ramp)
    for kind in (transparent, transparent.convert("RGBA"), image.convert("P"), image.convert("1")):
        file = io.BytesIO()
        kind.save(file, "PNG")
        found = decode_and_fit(tf.constant(file.getvalue()), (32, 48), 1, 8, "squash").numpy()
        assert decode(file.getvalue()).pixels.dtype == np.uint8
        assert np.abs(found.astype(int) - loader.decode(file.getvalue())).max() <= 1


def test_what_the_graph_cannot_decode_is_an_error():
    whole = jpeg(picture(200, 200))
    for file in (whole[: len(whole) // 2], codec.encode_png(picture(90, 90))[:-40], b"BM nonsense", b""):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode_and_fit(tf.constant(file), (32, 32), 1, 8, "squash")

"""`cxr export`: a run as a TensorFlow SavedModel, which needs neither Keras nor this package to be used."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr.command import Command, Given
from cxr.console import EXIT_OK, run_command
from cxr.errors import CxrError, InputError, OutputError
from cxr.files import replacing, write_json
from cxr.kinds import Flag, Whole, directory
from cxr.machine import load_tensorflow_quietly
from cxr.options import Options, option, options

if TYPE_CHECKING:
    from trainer.run import Run
    from trainer.training.classifier import Classifier

FACTS_NAME = "cxr.json"
SAVED_MODEL_NAME = "saved_model.pb"
ARRAY_TOLERANCE = 1e-3
"""Largest difference of a probability that is taken for rounding, for equal pixels."""
FILE_TOLERANCE = 1e-2
"""The same for files, whose pixels may differ by a level."""

_DESCRIPTION = """\
Exports a run as a TensorFlow SavedModel: for TensorFlow Serving, or any program that has TensorFlow and nothing else.
The export is asked about some images, and removed if it does not say what `cxr predict` says."""
_EPILOG = """\
signatures:
  serving_default  images: uint8 (uint16 for a run of 16 bits) [batch, height, width, channels], fitted to the model's
                   size -> probabilities: float32 [batch, labels]. A run at native size takes images of any size,
                   padded at the bottom and right, and mask: bool [batch, height, width, 1], true on the image.
  from_files       files: string [batch], the bytes of JPEG or PNG files of any size -> the same. EXIF orientation is
                   not applied, and the other formats of `cxr predict` are errors.
DIR/cxr.json has the labels, the operating point and the run's configuration. Whatever backend trained the run, the
export is made with TensorFlow, in float32.

examples:
  cxr export --run runs/robust --output models/robust/1
  python -c 'import tensorflow as tf; model = tf.saved_model.load("models/robust/1");
    print(model.signatures["from_files"](files=tf.constant([open("chest.jpeg", "rb").read()])))'
"""


@options
class ExportOptions(Options):
    """What `cxr export` exports, and where to."""

    run: str = option(directory("RUN"), "directory of the run")
    output: str = option(directory(), "directory to make")
    overwrite: bool = option(Flag(), "replace the export that is there", default=False)
    check_images: int = option(Whole(0), "images to compare on; 0 is no check", default=16, flag="--check")


def run(given: Given) -> int:
    """Exports the run of a command line."""
    asked = given.make(ExportOptions)
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"  # a SavedModel is its; weights are the same for all backends
    from trainer.run import open_run

    trained = open_run(asked.run)
    trained.check_weights()
    _check_room(Path(asked.output), asked.overwrite)
    load_tensorflow_quietly()  # which loads Keras
    check = export_run(trained, asked.output, asked.overwrite, asked.check_images)
    if check:
        print(
            f"checked on {check.images} images of {check.source}: probabilities differ by at most "
            f"{check.arrays:.2g} for pixels, {check.files:.2g} for files"
        )
    print(f"exported {asked.run} to {asked.output}")
    return EXIT_OK


@dataclasses.dataclass(frozen=True)
class ExportCheck:
    """How far an export is from the run.

    Attributes:
      images: compared.
      source: where they are from.
      arrays: largest absolute difference of a probability, for equal pixels.
      files: the same for the images as files.
    """

    images: int
    source: str
    arrays: float
    files: float


def export_run(run: Run, output: str | Path, overwrite: bool = False, check: int = 16) -> ExportCheck | None:
    """Writes the SavedModel of a run; an older one is replaced only by one that has passed the check.

    `check` is the number of images to compare on; 0 leaves the check out.

    Raises:
      InputError: Keras runs on another backend than TensorFlow.
      OutputError: `output` exists, cannot be written, or the export does not say what the run says.
      DatasetError: the run has no weights.
    """
    import keras

    from trainer.training.trained import load_model

    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"a SavedModel is made with Keras on TensorFlow, and it runs on {keras.backend.backend()} here. "
            "Export with KERAS_BACKEND=tensorflow; the weights of a run are the same for all backends"
        )
    output = Path(output)
    _check_room(output, overwrite)
    # Float32 computes the same on whatever machine serves; the weights are float32 under every policy.
    float32 = dataclasses.replace(run, config=dataclasses.replace(run.config, mixed_precision="float32"))
    model = load_model(float32)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output) as temporary:
            _save(run, model, temporary)
            write_json(temporary / FACTS_NAME, _facts(run))
            return check_export(run, model, temporary, check) if check else None
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror or error}") from error


def _check_room(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise OutputError(f"{output} is a file; --output names the directory of the export")
    content = sorted(path.name for path in output.iterdir())
    if content and SAVED_MODEL_NAME not in content:
        raise OutputError(f"{output} holds something that is no export ({content[0]}, ...); choose another --output")
    if content and not overwrite:
        raise OutputError(f"{output} holds an export already; choose another --output, or --overwrite to replace it")


def _save(run: Run, model: Classifier, folder: Path) -> None:
    import keras
    import tensorflow as tf

    from trainer.serving.graph import decode_and_fit

    size, channels, bit_depth = run.config.size, run.facts.channels, run.facts.bit_depth
    dtype = tf.uint16 if bit_depth == 16 else tf.uint8
    shape = [None, *(size or (None, None))]
    arrays = [tf.TensorSpec([*shape, channels], dtype, "images")]
    if size is None:
        arrays.append(tf.TensorSpec([*shape, 1], tf.bool, "mask"))

    def predict(images: tf.Tensor, mask: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        inputs = images if mask is None else {"image": images, "mask": mask}
        return {"probabilities": model(inputs, training=False)}

    def predict_file(file: tf.Tensor) -> tf.Tensor:
        image = decode_and_fit(file, size, channels, bit_depth, run.config.fit)[None]  # type: ignore[arg-type]
        return predict(image, tf.ones_like(image[..., :1], tf.bool))["probabilities"][0]

    def predict_files(files: tf.Tensor) -> dict[str, tf.Tensor]:
        if size is None:  # one after the other, as their sizes differ
            labels = tf.TensorSpec([len(run.facts.labels)], tf.float32)
            return {"probabilities": tf.map_fn(predict_file, files, 1, fn_output_signature=labels)}
        images = tf.map_fn(
            lambda file: decode_and_fit(file, size, channels, bit_depth, run.config.fit),  # type: ignore[arg-type]
            files,
            fn_output_signature=tf.TensorSpec([*size, channels], dtype),
        )
        return predict(images)

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", predict, arrays)
    archive.add_endpoint("from_files", predict_files, [tf.TensorSpec([None], tf.string, "files")])
    archive.write_out(str(folder), verbose=False)


def _facts(run: Run) -> dict[str, Any]:
    """What `cxr.json` holds: all that is needed to use the export rightly."""
    from trainer.evaluation.operating_point import read_operating_point

    point = read_operating_point(run.operating_point, run.weights_digest())
    facts = run.facts
    height, width = run.config.size or (None, None)
    return {
        "run": run.name, "task": facts.task, "labels": list(facts.labels), "positive": facts.positive,
        "operating_point": point.to_json() if point else None,
        "image": {
            "height": height, "width": width, "channels": facts.channels, "bit_depth": facts.bit_depth,
            "fit": run.config.size and run.config.fit,
        },
        "config": run.config.to_json(), "data_digest": facts.digest,
        "versions": {name: version(name) for name in ("cxr-stream", "keras")},
    }  # fmt: skip


def check_export(run: Run, model: Classifier, folder: Path, count: int) -> ExportCheck:
    """Asks an export and the run about so many images: of the run's data set where it is there, else noise.

    Raises OutputError where they differ by more than rounding explains.
    """
    import numpy as np
    import tensorflow as tf

    from trainer.serving.image_files import FileLoader
    from trainer.training.inputs import native_batch
    from trainer.training.validation import predict_arrays

    source, files = _some_files(run, count)
    loader = FileLoader(run.config, run.facts, through_rung=False)  # as the graph does
    images = [loader.decode(file) for file in files]
    expected = predict_arrays(model, images)
    served = tf.saved_model.load(str(folder)).signatures
    if run.config.native:
        batches = [{"images": batch["image"], "mask": batch["mask"]} for batch in map(native_batch, images)]
    else:
        batches = [{"images": np.stack(images)}]

    def ask(signature: str, **inputs: Any) -> np.ndarray:
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        return served[signature](**tensors)["probabilities"].numpy()

    found = {
        "pixels": np.concatenate([ask("serving_default", **batch) for batch in batches]),
        "files": ask("from_files", files=files),
    }
    differences = {name: float(np.abs(values - expected).max()) for name, values in found.items()}
    for name, tolerance in (("pixels", ARRAY_TOLERANCE), ("files", FILE_TOLERANCE)):
        if not differences[name] <= tolerance:  # NaN is no agreement
            raise OutputError(
                f"the export is wrong and was removed: for {name} its probabilities differ from the run's by up to "
                f"{differences[name]:.2g} on {len(files)} images of {source}; expected {tolerance:g} at most"
            )
    return ExportCheck(len(files), source, differences["pixels"], differences["files"])


def _some_files(run: Run, count: int) -> tuple[str, list[bytes]]:
    """Where they are from, and so many JPEG or PNG files, as bytes."""
    import numpy as np

    from tfrecords.dataset import open_dataset
    from tfrecords.images import codec

    try:
        data = open_dataset(run.facts.path)
        split = next((name for name in ("val", *data.splits) if name in data.splits and data.images(name)), "val")
        if data.manifest.digest == run.facts.digest:
            return f"{split} of {data.root}", _stored_files(data, split, count)
    except CxrError:
        pass  # the data set is gone, or damaged: noise shows a wrong graph as well
    rng = np.random.default_rng(0)
    full = 2**run.facts.bit_depth - 1
    images = []
    for _ in range(count):
        height, width = (math.ceil(side * rng.uniform(0.8, 2.5)) for side in run.config.size or (256, 256))
        grid = rng.integers(0, full + 1, (8, 8, run.facts.channels))
        blocks = grid.repeat(math.ceil(height / 8), axis=0).repeat(math.ceil(width / 8), axis=1)[:height, :width]
        noisy = np.clip(blocks + rng.integers(-full // 8, full // 8, blocks.shape), 0, full)
        images.append(codec.encode_png(noisy.astype(np.uint16 if full > 255 else np.uint8)))
    return "noise, for the run's data set is not there", images


def _stored_files(data: Any, split: str, count: int) -> list[bytes]:
    """Files of a split as they are stored at full resolution, evenly over it; PNG where raw pixels are stored."""
    import numpy as np

    from tfrecords.format.schema import ENCODINGS
    from tfrecords.format.shards import FULL_RUNG
    from tfrecords.images import codec
    from tfrecords.streaming.loader import open_loader

    options = data.options(split, rung=FULL_RUNG, cache="none")
    reader = open_loader(data.root, data.manifest.digest, options).reader
    index = reader.index
    files = []
    for row in np.unique(np.linspace(0, len(index) - 1, count).astype(int)).tolist():
        stored = reader.data(row)
        start, stop = index.image[row].tolist()
        raw = ENCODINGS[index.encoding[row]] == "raw"
        files.append(codec.encode_png(reader.decode(row, stored)) if raw else stored[start:stop])
    return files


COMMAND = Command("export", _DESCRIPTION, run, ExportOptions, _EPILOG, needs="train")
main = COMMAND.main

if __name__ == "__main__":
    sys.exit(run_command(main))

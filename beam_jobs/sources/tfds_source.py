"""`tfds:NAME`: an image-classification data set of TensorFlow Datasets as a zip of files.

TFDS reads examples in a row and not by name, while a worker reads any image by its path, so the encoded
images are first copied into a zip in the work directory. Only the driver needs TensorFlow for it.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from beam_jobs.sources.stores import Zip
from beam_jobs.sources.structure import SPLIT_NAMES
from cxr.console import progress_bar
from cxr.errors import InputError, MissingExtraError
from cxr.files import replacing
from tfrecords.images.file_lists import is_ignored


def materialize_tfds(name: str, archive: Path, data_dir: str | None = None, quiet: bool = False) -> Zip:
    """Writes an image-classification data set of TFDS into an uncompressed zip of `split/class/*` files.

    The encoded images are copied as they are, so nothing is lost. A zip that exists is kept: it is renamed
    into place only when whole.

    Args:
      name: what `tfds.builder` takes, such as `patch_camelyon` or `my_data/config:1.0.0`.
      archive: where to write the zip.
      data_dir: TFDS's data directory; its default otherwise.
      quiet: show no progress bar.

    Raises:
      InputError: no such data set, or not one of image classification, or it cannot be had (no network).
      MissingExtraError: tensorflow-datasets or TensorFlow is not installed.
    """
    if archive.exists():
        return Zip(os.fspath(archive))
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise MissingExtraError("reading from TFDS", error.name or "tensorflow-datasets", "train") from error
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        builder.download_and_prepare()
    except Exception as error:  # TFDS raises a dozen unrelated types for a wrong name or no network
        said = str(error).strip().partition("\n")[0]  # what follows may be a list of all that there are
        raise InputError(f"cannot load the TFDS data set '{name}': {type(error).__name__}: {said}") from error
    features = builder.info.features
    image_key, label_key = (builder.info.supervised_keys or ("image", "label"))[:2]
    known = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = known.get(image_key), known.get(label_key)
    if (
        not isinstance(image, tfds.features.Image)
        or not isinstance(label, tfds.features.ClassLabel)
        or np.dtype(image.np_dtype).name not in ("uint8", "uint16")  # float32 hides in an RGBA PNG
    ):
        raise InputError(
            f"the TFDS data set '{name}' is not one of image classification: expected an Image of uint8 or uint16 "
            f"and a ClassLabel, received {image_key}: {image!r:.60}, {label_key}: {label!r:.60}"
        )
    unfit = [text for text in label.names if "/" in text or "\\" in text or is_ignored(text)]
    if unfit:
        raise InputError(f"the TFDS data set '{name}' has the class name {unfit[0]!r}, which no folder can have")
    strange = [split for split in builder.info.splits if split.lower() not in SPLIT_NAMES]
    if strange:
        splits = ", ".join(SPLIT_NAMES)
        raise InputError(f"the TFDS data set '{name}' has the split '{strange[0]}'; expected only {splits}")
    total = builder.info.splits.total_num_examples
    with (
        replacing(archive) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as target,
        progress_bar(total, f"reading {name}", quiet, unit=" images") as bar,
    ):
        for split in builder.info.splits:
            examples = builder.as_dataset(
                split=split,
                decoders={image_key: tfds.decode.SkipDecoding()},
                read_config=tfds.ReadConfig(try_autocache=False),
            )
            for index, example in enumerate(examples):
                data = example[image_key]
                number = int(example[label_key])
                if number < 0:
                    raise InputError(f"the TFDS data set '{name}' has no label for image {index} of split '{split}'")
                # a fixed date: the same data gives the same zip
                info = zipfile.ZipInfo(f"{split}/{label.int2str(number)}/{index:08d}.img")
                target.writestr(info, data.numpy() if data.dtype == tf.string else tf.io.encode_png(data).numpy())
                bar.update()
    return Zip(os.fspath(archive))

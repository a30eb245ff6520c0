"""Each rung's folder as TFDS opens it: the very pixels that were stored."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

ROOT = Path(__file__).resolve().parents[3]

KINDS = {
    "source, grey": {"encoding": "source"},
    "source, colour": {"encoding": "source", "channels": (3,)},
    "source, mixed": {"encoding": "source", "channels": (1, 3, 3, 1)},
    "source, multi-label": {"encoding": "source", "multi_label": True},
    "png": {"encoding": "png"},
    "png, 16 bit, colour": {"encoding": "png", "bit_depth": 16, "channels": (3,)},
    "png, 16 bit, mixed": {"encoding": "png", "bit_depth": 16, "channels": (1, 3), "multi_label": True},
    "unknown labels and groups": {"encoding": "png", "multi_label": True, "groups": ("view", "age")},
    "raw": {"encoding": "raw"},
    "raw, mixed, multi-label": {"encoding": "raw", "channels": (3, 1), "multi_label": True},
    "raw, 16 bit, mixed": {"encoding": "raw", "bit_depth": 16, "channels": (1, 3)},
    "an empty shard": {"encoding": "source", "shards": {"train": (2, 0, 1), "test": (0, 1)}},
}
TEXTS = ("encoding", "cause", "patient", "path", "pixel_hash")
NUMBERS = ("height", "width", "channels", "bit_depth")


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def made(request, make, tmp_path_factory):
    return make(tmp_path_factory.mktemp("tfds") / "set", **request.param)


def widen(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Grey repeated where three channels are asked for."""
    return np.broadcast_to(pixels, (*pixels.shape[:2], channels)) if channels else pixels


def assert_same_example(example: dict, record, pixels: np.ndarray) -> None:
    assert example["image"].dtype == pixels.dtype
    np.testing.assert_array_equal(example["image"], pixels)
    assert {name: example[name].decode() for name in TEXTS} == {name: getattr(record, name) for name in TEXTS}
    assert {name: int(example[name]) for name in NUMBERS} == {name: getattr(record, name) for name in NUMBERS}
    np.testing.assert_array_equal(example["label"], record.label)


def test_tfds_yields_every_split_of_every_rung_exactly_and_in_order(made):
    for rung, splits in made.expected.items():
        builder = tfds.builder_from_directory(str(made.root / rung))
        # a file feature has a fixed number of channels; a raw one yields grey as grey among colour
        channels = 3 if made.manifest.channels == 0 and not made.manifest.schema(rung).raw else made.manifest.channels
        assert set(builder.info.splits) == set(splits)
        for split, expected in splits.items():
            assert builder.info.splits[split].num_examples == len(expected)
            examples = list(tfds.as_numpy(builder.as_dataset(split=split)))
            assert len(examples) == len(expected)
            for example, (record, pixels) in zip(examples, expected, strict=True):
                more = ["unknown"] if made.manifest.unknown_labels else []
                assert example.keys() == {"image", "label", *TEXTS, *NUMBERS, *made.manifest.groups, *more}
                for name in made.manifest.groups:
                    assert example[name].decode() == getattr(record, name)
                if more:
                    np.testing.assert_array_equal(example["unknown"], record.unknown)
                assert_same_example(example, record, widen(pixels, channels))


def test_tfds_knows_names_types_and_sizes(made):
    for rung in made.manifest.rungs:
        info = tfds.builder_from_directory(str(made.root / rung)).info
        label = info.features["label"].feature if made.manifest.multi_label else info.features["label"]
        assert label.names == list(made.manifest.labels)
        assert info.name == made.manifest.name
        assert info.disable_shuffling  # the order of records is part of the data set
        assert info.features["image"].np_dtype == f"uint{made.manifest.bit_depth}"
        assert info.dataset_size == sum(path.stat().st_size for path in (made.root / rung).glob("*.tfrecord-*"))


def test_tfds_supervised_pairs_batches_and_slices(make, tmp_path):
    made = make(tmp_path / "set", encoding="raw", sizes=(16,))
    builder = tfds.builder_from_directory(str(made.root / "16"))
    expected = made.expected["16"]["train"]
    pairs = list(tfds.as_numpy(builder.as_dataset(split="train[1:4]", as_supervised=True)))
    for (image, label), (record, pixels) in zip(pairs, expected[1:4], strict=True):
        np.testing.assert_array_equal(image, pixels)
        assert label == record.label
    padded = next(iter(builder.as_dataset(split="train").map(lambda row: row["image"]).padded_batch(5)))
    assert padded.shape[0] == 5


def test_tfds_opens_a_folder_in_a_process_that_never_imported_this_package(make, tmp_path):
    """features.json alone leads TFDS to `tfrecords.format.tfds_image.ExactImage`."""
    made = make(tmp_path / "set", encoding="source")
    code = (
        "import sys, hashlib, tensorflow_datasets as tfds\n"
        "builder = tfds.builder_from_directory(sys.argv[1])\n"
        "rows = tfds.as_numpy(builder.as_dataset(split='train'))\n"
        "print(type(builder.info.features['image']).__name__)\n"
        "print(*(hashlib.sha256(row['image'].tobytes()).hexdigest() for row in rows))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(made.root / "full")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    hashes = [hashlib.sha256(pixels.tobytes()).hexdigest() for _, pixels in made.expected["full"]["train"]]
    assert done.stdout.split() == ["ExactImage", *hashes]


def test_the_json_of_tfds_itself_is_the_same_table(make, tmp_path):
    """What TFDS would save for the features that it read is what was written, but for its defaults."""
    made = make(tmp_path / "set", encoding="raw", bit_depth=16, multi_label=True)
    folder = made.root / "full"
    features = tfds.builder_from_directory(str(folder)).info.features
    features.save_config(str(tmp_path))
    ours, theirs = (json.loads((place / "features.json").read_text()) for place in (folder, tmp_path))
    assert theirs["featuresDict"]["features"].keys() == ours["featuresDict"]["features"].keys()
    assert theirs["featuresDict"]["features"]["image"] == ours["featuresDict"]["features"]["image"]
    assert (tmp_path / "label.labels.txt").read_text() == (folder / "label.labels.txt").read_text()

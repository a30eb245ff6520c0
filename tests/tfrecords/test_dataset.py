"""The handle of a data set: what it says is what the manifest says, and what its streams then give."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cxr.errors import DatasetError, InputError
from tfrecords.dataset import XrayDataset, open_dataset
from tfrecords.format.choices import small_split
from tfrecords.format.manifest import Split, read_manifest
from tfrecords.streaming.stream_options import StreamOptions


@pytest.fixture(scope="module")
def made(make, tmp_path_factory):
    return make(tmp_path_factory.mktemp("handle") / "set", "raw", sizes=(24, 12), shards={"train": (9, 8), "val": (5,)})


@pytest.fixture(scope="module")
def data(made) -> XrayDataset:
    return open_dataset(made.root)


def test_every_property_is_that_of_the_manifest(made, data):
    manifest = json.loads((made.root / "manifest.json").read_text())
    assert data.root == made.root
    assert data.manifest == read_manifest(made.root) == made.manifest
    assert data.labels == tuple(manifest["labels"]) == ("NORMAL", "PNEUMONIA", "Ödem")
    assert data.splits == tuple(manifest["splits"]) == ("train", "val")
    assert data.rungs == tuple(manifest["rungs"]) == ("full", "24", "12")
    assert data.multi_label is manifest["multi_label"] is False
    assert data.bit_depth == manifest["bit_depth"] == 8
    assert data.channels == manifest["channels"] == 1
    assert data.sizes == manifest["sizes"]
    for split, images in (("train", 17), ("val", 5)):
        assert data.images(split) == manifest["splits"][split]["images"] == images
        assert data.counts(split) == manifest["splits"][split]["labels"]
        assert sum(data.counts(split).values()) == images
    pixels = [pixels / 255 for _, pixels in made.expected["full"]["train"]]
    assert data.pixel_mean == manifest["pixels"]["mean"] == pytest.approx(np.mean([p.mean() for p in pixels]), abs=1e-6)
    spread = np.sqrt(np.mean([(p**2).mean() for p in pixels]) - data.pixel_mean**2)
    assert data.pixel_std == manifest["pixels"]["std"] == pytest.approx(spread, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"bit_depth": 16}, {"bit_depth": 16, "channels": 1, "multi_label": False}),
        ({"channels": (3,)}, {"bit_depth": 8, "channels": 3, "multi_label": False}),
        ({"channels": (1, 3)}, {"bit_depth": 8, "channels": 3, "multi_label": False}),
        ({"multi_label": True}, {"bit_depth": 8, "channels": 1, "multi_label": True}),
    ],
    ids=str,
)
def test_other_kinds_of_data_sets(make, tmp_path, options, expected):
    data = open_dataset(make(tmp_path / "set", **options).root)
    assert {name: getattr(data, name) for name in expected} == expected


def test_its_repr_says_what_is_there(data, made):
    assert repr(data) == (
        f"XrayDataset({str(made.root)!r}: train 17, val 5; labels NORMAL, PNEUMONIA, Ödem; rungs ('full', '24', '12'))"
    )


@pytest.mark.parametrize("split", ["test", "Train", "", "full"])
def test_an_unknown_split_is_named_with_those_there_are(data, split):
    calls = [data.images, data.counts, data.class_weights, data.stream, data.steps_per_epoch]
    for call in calls:
        with pytest.raises(InputError, match=f"^no split '{split}'; the data set has train, val$"):
            call(split)


def test_an_empty_split_says_so(make, tmp_path):
    made = make(tmp_path / "set", shards={"train": (3,), "val": (2,), "test": (0,)})
    data = open_dataset(made.root)
    for call in (data.stream, data.class_weights, data.steps_per_epoch):
        with pytest.raises(InputError, match=r"^split 'test' is empty$"):
            call("test")


def test_class_weights_make_classes_count_the_same(data):
    for split in data.splits:
        weights, counts = data.class_weights(split), data.counts(split)
        shares = [weights[index] * counts[label] for index, label in enumerate(data.labels)]
        np.testing.assert_allclose(shares, data.images(split) / 3, rtol=1e-12)
    assert data.class_weights() == data.class_weights("train")


def test_class_weights_need_one_label_an_image(make, tmp_path):
    data = open_dataset(make(tmp_path / "set", multi_label=True).root)
    with pytest.raises(InputError, match="class weights need exactly one label an image; this data set is multi-label"):
        data.class_weights("train")


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("batch_size", [2, 5, 40])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"drop_remainder": True},
        {"training": True},
        {"training": True, "balanced": True},
        {"training": True, "drop_remainder": True},
        {"image_size": None},
        {"image_size": None, "training": True, "max_buckets": 2},
        {"image_size": None, "drop_remainder": True, "rung": "12"},
        {"first_step": 1},
    ],
    ids=str,
)
def test_steps_per_epoch_is_the_number_of_batches(data, split, batch_size, options):
    options = {"image_size": 6, "batch_size": batch_size, **options}
    try:
        steps = data.steps_per_epoch(split, **options)
    except InputError as error:
        assert options.get("drop_remainder"), error
        assert str(error).startswith("drop_remainder=True leaves no batch"), error
        with pytest.raises(InputError, match="leaves no batch"):
            data.stream(split, **options)
        return
    for epochs in (1, 2):
        found = sum(1 for _ in data.stream(split, **{**options, "epochs": epochs}))
        assert found == max(0, epochs * steps - options.get("first_step", 0))


def test_options_are_checked_and_complete(data):
    assert data.options("val", batch_size=3) == StreamOptions("val", batch_size=3)
    for call in (data.options, data.stream, data.steps_per_epoch):
        with pytest.raises(InputError, match=r"^the stream has no option 'batchsize'; did you mean batch_size\?$"):
            call("train", batchsize=3)
        with pytest.raises(InputError, match=r"^batch_size=0: expected a whole number of at least 1$"):
            call("train", batch_size=0)


def test_a_path_may_be_text_and_relative(made, monkeypatch):
    monkeypatch.chdir(made.root.parent)
    for root in ("set", Path("set"), str(made.root), f"{made.root}{os.sep}"):
        data = open_dataset(root)
        assert data.images("train") == 17
        assert sum(len(labels) for _, labels in data.stream("train", image_size=5)) == 17


@pytest.mark.parametrize("streamed", [False, True])
def test_a_handle_sees_that_its_data_set_was_written_anew(make, tmp_path, streamed):
    made = make(tmp_path / "set", "raw")
    data = open_dataset(made.root)
    if streamed:
        list(data.stream("train", image_size=6))
    records = made.records()
    made.rewrite([*records[1:], dataclasses.replace(records[0], patient="somebody else")])
    for call in (data.stream, data.steps_per_epoch):
        with pytest.raises(DatasetError, match=r"was written anew since it was opened; open it again$"):
            call("train", image_size=6)
    again = open_dataset(made.root)
    assert again.manifest.digest != data.manifest.digest
    facts = [facts for _, _, facts in again.stream("train", image_size=6, rung="full", metadata=True)]
    assert facts[0]["patient"].numpy().tolist()[2] == b"somebody else"


def test_a_handle_opens_without_tensorflow(made):
    code = f"""
import sys
from tfrecords.dataset import open_dataset
data = open_dataset({str(made.root)!r})
print(data.labels, data.rungs, data.pixel_mean, data.options("train", batch_size=3).batch_size)
print(sorted(name for name in ("tensorflow", "keras", "apache_beam") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("('NORMAL', ")
    assert done.stdout.splitlines()[1] == "[]"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (29, (14, 15), "split 'val' has 29 images; a figure measured on fewer than 30 says little"),
        (40, (31, 9), "split 'val' has 9 of P; a figure measured on fewer than 10 images says little"),
        (100, (50, 50), None),
    ],
)
def test_a_split_that_is_too_small_to_measure_on(images: int, labels: tuple[int, int], message: str | None):
    assert small_split("val", Split(images, images, dict(zip("NP", labels, strict=True)))) == message

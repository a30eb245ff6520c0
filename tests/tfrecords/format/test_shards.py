from __future__ import annotations

from pathlib import Path

import pytest

from tfrecords.format.shards import is_shard_name, rung_name, shard_name, shard_path


@pytest.mark.parametrize(
    ("index", "count", "name"),
    [
        (0, 1, "chest-train.tfrecord-00000-of-00001"),
        (7, 12, "chest-train.tfrecord-00007-of-00012"),
        (99_998, 99_999, "chest-train.tfrecord-99998-of-99999"),
    ],
)
def test_shards_are_named_as_tfds_expects(index, count, name):
    assert shard_name("chest", "train", index, count) == name
    assert is_shard_name(name)


@pytest.mark.parametrize(("index", "count"), [(-1, 3), (3, 3), (0, 0), (0, 100_000)])
def test_an_index_out_of_bounds_is_refused(index, count):
    with pytest.raises(ValueError, match=rf"shard index {index} of {count}: expected"):
        shard_name("chest", "train", index, count)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "manifest.json",
        ".chest-train.tfrecord-00000-of-00001.4f.tmp",
        "chest-train.tfrecord-00000-of-00001.tmp",
        "chest-train.tfrecord-0-of-1",
        "chest-train.tfrecord-000000-of-000001",
        "chest-train.tfrecord-00003-of-00003",
        "chest-train.tfrecord-\u0660\u0660\u0660\u0660\u0660-of-\u0660\u0660\u0660\u0660\u0661",
        "-train.tfrecord-00000-of-00001",
        "chest-train.tfrecord-00000-of-00001\n",
    ],
)
def test_other_files_are_not_shards(name):
    assert not is_shard_name(name)


def test_a_shard_lies_in_the_folder_of_its_rung():
    assert rung_name(None) == "full"
    assert rung_name(512) == "512"
    path = shard_path(Path("/data"), rung_name(512), "chest", "val", 1, 2)
    assert path == Path("/data/512/chest-val.tfrecord-00001-of-00002")

from __future__ import annotations

import dataclasses
import json
import math

import blake3
import numpy as np
import pytest

from cxr.errors import DatasetError
from tfrecords.format.manifest import (
    ImageEntry,
    Manifest,
    Rung,
    Shard,
    Split,
    combine_statistics,
    common_channels,
    fingerprint,
    read_manifest,
    size_histogram,
)
from tfrecords.format.schema import SCHEMA_VERSION, RecordSchema

SHARD = Shard(1, 99, "cc", 50, "ad")
MANIFEST = Manifest(
    name="chest_xray",
    labels=("NORMAL", "Ödem"),
    multi_label=False,
    bit_depth=16,
    channels=0,
    splits={"train": Split(3, 2, {"NORMAL": 1, "Ödem": 2}), "val": Split(1, 1, {"NORMAL": 1, "Ödem": 0})},
    rungs={
        "full": Rung(
            None,
            "source",
            {"train": (Shard(2, 640, "aa", 70, "ab"), Shard(1, 320, "bb", 60, "ac")), "val": (SHARD,)},
        ),
        "512": Rung(512, "raw", {"train": (SHARD, SHARD), "val": (SHARD,)}),
    },
    sizes={"step": 64, "counts": [[1, 2, 4]], "height": {"min": 64, "mean": 80.5, "max": 99}},
    pixels={"mean": 0.481923, "std": 0.233},
    source={"kind": "folder", "listing": "00"},
    options={"seed": 0, "sizes": [512]},
    versions={"schema": "1"},
    sidecars={"audit.json": "ab", "rejects.jsonl": "cd"},
)


def change(path: str, value: object = None) -> str:
    """The manifest as JSON with one entry replaced or, without a value, removed."""
    content = json.loads(MANIFEST.to_json())
    *parents, last = path.split("/")
    place = content
    for parent in parents:
        place = place[int(parent)] if isinstance(place, list) else place[parent]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return json.dumps(content)


def test_what_is_written_is_read():
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


def test_the_same_manifest_is_the_same_bytes():
    text = MANIFEST.to_json()
    assert Manifest.from_json(text).to_json() == text
    assert text.endswith("}\n")
    assert text.isascii()
    assert text.index('"name"') < text.index('"splits"') < text.index('"rungs"') < text.index('"schema_version"')


def test_a_manifest_knows_schema_and_shard_paths_of_each_rung(tmp_path):
    assert MANIFEST.schema() == RecordSchema(raw=False, multi_label=False)
    assert MANIFEST.schema("512") == RecordSchema(raw=True, multi_label=False)
    assert dataclasses.replace(MANIFEST, multi_label=True).schema().multi_label
    assert MANIFEST.shard_paths(tmp_path, "512", "train") == [
        tmp_path / "512" / "chest_xray-train.tfrecord-00000-of-00002",
        tmp_path / "512" / "chest_xray-train.tfrecord-00001-of-00002",
    ]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", '"text"', "{}", '{"name": "x"}', MANIFEST.to_json()[:-20]]
)
def test_what_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DatasetError, match=r"manifest.json is not a data set manifest: "):
        read_manifest(tmp_path)


@pytest.mark.parametrize("version", [1, "1", [1]])
def test_another_schema_version_is_refused_even_if_all_else_is_strange(version):
    text = json.dumps({"schema_version": version, "entries": "of the future"})
    with pytest.raises(DatasetError, match=rf"x.json has schema version .*cxr-stream reads {SCHEMA_VERSION}"):
        Manifest.from_json(text, "x.json")


def test_the_version_without_unknown_labels_and_groups_is_read():
    fields = json.loads(MANIFEST.to_json())
    del fields["unknown_labels"], fields["groups"]
    for split in fields["splits"].values():
        del split["unknown"]
    found = Manifest.from_json(json.dumps({**fields, "schema_version": 2}))
    assert found == dataclasses.replace(MANIFEST, schema_version=2)


def test_a_newer_schema_version_asks_for_an_update():
    text = json.dumps({"schema_version": SCHEMA_VERSION + 1})
    with pytest.raises(DatasetError, match=r"of a newer cxr-stream; .*Update cxr-stream$") as raised:
        Manifest.from_json(text, "x.json")
    assert "overwrite" not in str(raised.value)


def test_the_first_version_is_refused_with_the_command_that_makes_the_data_set_again(tmp_path):
    options = {"split": None, "fractions": [0.7, 0.2, 0.1], "labels": "cause", "sizes": [512, 256], "classes": []}
    options |= {"val_fraction": 0.0, "patient_pattern": "p (\\d+)", "patient_salt": "hash", "seed": 0}
    path = tmp_path / "my set" / "manifest.json"
    with pytest.raises(DatasetError) as raised:
        text = json.dumps({"schema_version": 1, "options": options, "source": {"kind": "zip"}})
        Manifest.from_json(text, path)
    assert str(raised.value) == (
        f"{path} has schema version 1; this version of cxr-stream reads 3. Make the data set again from its zip: "
        f"CXR_PATIENT_SALT=SALT cxr preprocess --input SOURCE --output '{path.parent}' --overwrite "
        "--fractions 0.7,0.2,0.1 --labels cause --sizes 512,256 --val-fraction 0.0 "
        "--patient-pattern 'p (\\d+)' --seed 0"
    )


@pytest.mark.parametrize(
    "field", [field.name for field in dataclasses.fields(Manifest) if field.default is dataclasses.MISSING]
)
def test_each_missing_entry_is_named(field):
    with pytest.raises(DatasetError, match=rf"x.json is damaged: .*'{field}'"):
        Manifest.from_json(change(field), "x.json")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("surprise", 1, "'surprise'"),
        ("splits/train/images", None, "'images'"),
        ("rungs/512/encoding", None, "'encoding'"),
        ("rungs/512/shards", None, "'shards'"),
        ("rungs/full/shards/train/1/surprise", 1, "'surprise'"),
        ("rungs/full/shards/train/1/blake3", None, "'blake3'"),
        ("rungs/full/shards/train/1/index_bytes", None, "'index_bytes'"),
        ("rungs", [1], "'list'"),
        ("rungs/full/shards/train/1/records", "ten", "records is 'ten'; expected int"),
        ("rungs/512/size", "big", "size is 'big'; expected int | None"),
        ("splits/train/images", 1.5, "images is 1.5; expected int"),
        ("name", 7, "name is 7; expected str"),
        ("sidecars", ["audit.json"], "sidecars is ['audit.json']; expected dict"),
        ("source", "folder", "source is 'folder'; expected dict"),
        ("pixels", 0.5, "pixels is 0.5; expected dict"),
        ("splits", {"train": 3}, "Split is 3; expected an object"),
        ("labels", 7, "'int'"),
        ("rungs/full", None, "no rung 'full'"),
        ("rungs/512/encoding", "jpeg", "rung '512' has the unknown encoding 'jpeg'"),
        ("rungs/512/shards/val", None, "rung '512' has shards {'train': 2}; expected {'train': 2, 'val': 1}"),
        ("splits/val", None, "rung 'full' has shards {'train': 2, 'val': 1}; expected {'train': 2}"),
    ],
)
def test_each_wrong_entry_is_named(path, value, message):
    with pytest.raises(DatasetError, match=r"^x.json is damaged: ") as raised:
        Manifest.from_json(change(path, value), "x.json")
    assert message in str(raised.value)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text("")], ids=["missing", "a file"])
def test_what_is_no_directory_is_named(tmp_path, make):
    make(tmp_path / "set")
    with pytest.raises(DatasetError, match=rf"^{tmp_path / 'set'} is not a directory; expected a data set"):
        read_manifest(tmp_path / "set")


def test_a_directory_without_manifest_is_no_data_set(tmp_path):
    with pytest.raises(DatasetError, match=rf"^{tmp_path} is not a data set: it has no manifest.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe{}", None], ids=["not UTF-8", "a directory"])
def test_a_manifest_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "manifest.json"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"cannot read {path}"):
        read_manifest(tmp_path)


def test_size_histogram_of_known_sizes():
    assert size_histogram([(64, 127), (63, 128), (70, 100)]) == {
        "step": 64,
        "counts": [[0, 2, 1], [1, 1, 2]],
        "height": {"min": 63, "mean": 65.67, "max": 70},
        "width": {"min": 100, "mean": 118.33, "max": 128},
        "pixels": 64 * 127 + 63 * 128 + 70 * 100,
    }


ENTRIES = [
    ImageEntry("a/2.png", "11", (1,), "p7", "train"),
    ImageEntry("a/10.png", "22", (0, 1), "Ödem", "val"),
    ImageEntry("b", "33", (), "p8", "test"),
]


def test_fingerprint_is_that_of_the_entries_as_json_in_order_of_path():
    text = (
        '["a/10.png", "22", [0, 1], "\\u00d6dem", "val"]["a/2.png", "11", [1], "p7", "train"]'
        '["b", "33", [], "p8", "test"]'
    )
    expected = blake3.blake3(text.encode()).hexdigest()
    assert fingerprint(ENTRIES) == fingerprint(ENTRIES[::-1]) == fingerprint(iter(ENTRIES)) == expected


@pytest.mark.parametrize(
    "change",
    [{"path": "a/3.png"}, {"pixel_hash": "12"}, {"labels": (0,)}, {"patient": "p8"}, {"split": "val"}],
    ids=lambda change: next(iter(change)),
)
def test_fingerprint_tells_every_field(change):
    assert fingerprint([ENTRIES[0]._replace(**change), *ENTRIES[1:]]) != fingerprint(ENTRIES)
    assert fingerprint(ENTRIES[1:]) != fingerprint(ENTRIES)


def test_combined_statistics_are_those_of_all_pixels_of_images_of_one_size():
    values = np.random.default_rng(1).random((5, 40))
    images = list(zip(values.mean(axis=1), values.var(axis=1), strict=True))
    combined = combine_statistics(images)
    assert combined == combine_statistics(images[::-1])
    assert combined == {"mean": round(values.mean(), 9), "std": round(values.std(), 9)}
    for level in (0.1, 0.3, 0.7, 1.0):  # rounding may not ask for the root of -1e-17
        assert combine_statistics([(level, 0.0)] * 3) == {"mean": level, "std": pytest.approx(0, abs=1e-7)}
    assert combine_statistics([(0.0, 0.04), (1.0, 0.04)]) == {"mean": 0.5, "std": round(math.sqrt(0.29), 9)}


@pytest.mark.parametrize(("channels", "expected"), [([1, 1], 1), ([3], 3), ([1, 3, 1], 0)])
def test_common_channels(channels, expected):
    assert common_channels(channels) == expected

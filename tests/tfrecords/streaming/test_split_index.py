"""The index of a split against what was written, as the reader of whole records finds it."""

from __future__ import annotations

import dataclasses
import math
import os
import re

import numpy as np
import pytest

from cxr.errors import CorruptError, DatasetError
from tfrecords.format.framing import HEADER_BYTES, masked_crc32c, read_records
from tfrecords.format.manifest import read_manifest
from tfrecords.format.schema import ENCODINGS
from tfrecords.format.shard_index import TEXTS, UNKNOWN
from tfrecords.streaming.split_index import build_index

KINDS = [
    {},
    {"encoding": "source", "channels": (1, 3), "sizes": (24, 16, 1000)},
    {"encoding": "source", "bit_depth": 16, "channels": (3,), "sizes": ()},
    {"encoding": "raw", "bit_depth": 16, "channels": (1, 3), "multi_label": True},
    {"encoding": "png", "bit_depth": 16, "multi_label": True, "sizes": (20,), "groups": ("view", "age")},
    {"shards": {"train": (2, 0, 1), "val": (0,), "test": (4, 3)}},
]


def index_of(made, split: str = "train", rung: str = "full", on_corrupt: str = "error"):
    return build_index(made.root, read_manifest(made.root), rung, split, on_corrupt)


@pytest.mark.parametrize("on_corrupt", ["error", "skip"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_index_is_what_was_written(make, tmp_path, kind, on_corrupt):
    made = make(tmp_path / "set", **kind)
    manifest = made.manifest
    for rung in manifest.rungs:
        for split in manifest.splits:
            index = index_of(made, split, rung, on_corrupt)
            written = [record for record, _ in made.expected[rung][split]]
            frames = [
                (shard, frame)
                for shard, path in enumerate(manifest.shard_paths(made.root, rung, split))
                for frame in read_records(path)
            ]
            assert len(index) == len(written) == len(frames)
            assert (index.faults, index.lost) == ((), 0)
            assert index.paths == tuple(manifest.shard_paths(made.root, rung, split))
            assert index.shard.tolist() == [shard for shard, _ in frames]
            assert index.number.tolist() == [frame.index for _, frame in frames]
            assert index.offset.tolist() == [frame.offset + HEADER_BYTES for _, frame in frames]
            assert index.length.tolist() == [len(frame.data) for _, frame in frames]
            assert index.crc.tolist() == [masked_crc32c(frame.data) for _, frame in frames]
            for name in (*TEXTS, *manifest.groups):
                texts = index.texts(name, np.arange(len(written))[::-1]).tolist()
                assert texts == [getattr(record, name).encode() for record in written[::-1]]
            spans = index.image.tolist()
            assert [frame.data[begin:end] for (_, frame), (begin, end) in zip(frames, spans, strict=True)] == [
                record.image for record in written
            ]
            assert [ENCODINGS[code] for code in index.encoding] == [record.encoding for record in written]
            assert index.shape.tolist() == [[one.height, one.width, one.channels] for one in written]
            if manifest.multi_label:
                assert index.label.shape == (len(written), len(manifest.labels))
                found = [tuple(np.flatnonzero(row == 1).tolist()) for row in index.label]
                assert found == [record.label for record in written]
                unknown = [tuple(np.flatnonzero(row == UNKNOWN).tolist()) for row in index.label]
                assert unknown == [record.unknown for record in written]
                assert any(unknown) == manifest.unknown_labels
            else:
                assert index.label.tolist() == [record.label for record in written]
            names = ("shard", "number", "offset", "length", "crc", "image", "encoding", "shape", "label")
            assert [getattr(index, name).dtype.name for name in names] == [
                *("int32", "int32", "int64", "int64", "uint32", "int64", "uint8", "int32"),
                "uint8" if manifest.multi_label else "int32",
            ]
            assert (index.image.shape, index.shape.shape) == ((len(written), 2), (len(written), 3))


@pytest.mark.parametrize("on_corrupt", ["error", "skip"])
def test_a_split_without_shards_is_empty(dataset, on_corrupt):
    manifest = dataset.manifest
    rungs = {
        name: dataclasses.replace(rung, shards={**rung.shards, "val": ()}) for name, rung in manifest.rungs.items()
    }
    for path in dataset.root.glob("*/*-val.*"):
        path.unlink()
    dataset.save(dataclasses.replace(manifest, rungs=rungs))
    index = index_of(dataset, "val", on_corrupt=on_corrupt)
    assert (len(index), index.label.shape, index.image.shape, index.paths) == (0, (0,), (0, 2), ())


def test_a_label_that_is_named_twice_is_present_once(make, tmp_path):
    made = make(tmp_path / "set", multi_label=True)
    records = made.records()
    made.rewrite([dataclasses.replace(records[0], label=(2, 0, 2)), *records[1:]])
    assert index_of(made).label[0].tolist() == [1, 0, 1]


FORGERIES = {
    "label 3; expected 0 to 2": {"label": 3},
    "label -1; expected 0 to 2": {"label": -1},
    "encoding jpeg; expected png": {"encoding": "jpeg"},
    "3 channels; expected 1": {"channels": 3},
    r"shape \(0, 50, 1\); expected 1 to 1048576 pixels a side": {"height": 0},
    r"shape \(35, -2, 1\); expected 1 to 1048576 pixels a side": {"width": -2},
    r"shape \(1048577, 50, 1\); expected 1 to 1048576 pixels a side": {"height": 2**20 + 1},
    r"shape \(35, 2147483647, 1\); expected 1 to 1048576 pixels a side": {"width": 2**31 - 1},
}


@pytest.mark.parametrize("on_corrupt", ["error", "skip"])
@pytest.mark.parametrize(("fault", "change"), FORGERIES.items())
def test_a_record_that_breaks_what_the_manifest_promises(dataset, fault, change, on_corrupt):
    records = dataset.records()
    begin = [frame.offset for frame in read_records(dataset.shard())][1]
    dataset.rewrite([records[0], dataclasses.replace(records[1], **change), records[2]])
    expected = rf"^{dataset.shard()}: record 1 at byte {begin}: {fault}"
    if on_corrupt == "error":
        with pytest.raises(CorruptError, match=expected):
            index_of(dataset)
        return
    index = index_of(dataset, on_corrupt="skip")
    assert (index.number.tolist(), index.shard.tolist()) == ([0, 2, 0, 1], [0, 0, 1, 1])
    assert (index.lost, len(index.faults)) == (1, 1)
    with pytest.raises(CorruptError, match=expected):
        raise index.faults[0]


@pytest.mark.parametrize("bit_depth", [8, 16])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_raw_image_of_the_wrong_length(make, tmp_path, bit_depth, change):
    made = make(tmp_path / "set", encoding="raw", bit_depth=bit_depth, channels=(3,))
    records = made.records()
    image = records[2].image[:change] if change < 0 else records[2].image + b"\0"
    made.rewrite([*records[:2], dataclasses.replace(records[2], image=image)])
    shape = (records[2].height, records[2].width, 3)
    needed = math.prod(shape) * bit_depth // 8
    with pytest.raises(CorruptError) as raised:
        index_of(made)
    assert (raised.value.record, raised.value.path) == (2, str(made.shard()))
    assert raised.value.fault == f"raw image of {needed + change} bytes; {shape} at {bit_depth} bits needs {needed}"
    skipped = index_of(made, on_corrupt="skip")
    assert (skipped.lost, len(skipped), [str(fault) for fault in skipped.faults]) == (1, 4, [str(raised.value)])


def test_all_faults_are_collected_in_order(dataset):
    first, second = dataset.shard(), dataset.shard("train", 1)
    content, begin = bytearray(first.read_bytes()), [frame.offset for frame in read_records(first)][1]
    content[begin + 300] ^= 1
    first.write_bytes(content + b"more")
    second.write_bytes(second.read_bytes()[:-9])
    stranger = first.with_name("chest_xray-train.tfrecord-00000-of-00007")
    stranger.write_bytes(b"")
    index = index_of(dataset, on_corrupt="skip")
    assert (index.shard.tolist(), index.number.tolist(), index.lost) == ([0, 0, 1], [0, 2, 0], 2)
    messages = [str(fault) for fault in index.faults]
    expected = [
        rf"{stranger} is not one of the 2 shards that the manifest lists for split 'train'",
        rf"{first}: record 3 at byte {len(content)}: 4 bytes more than the manifest's 3 records",
        rf"{second}: record 1 at byte \d+: truncated: the file has \d+ of \d+ bytes",
        rf"{first}: record 1 at byte {begin}: the data \(\d+ bytes\) does not match its CRC",
        rf"{second}: record 1 at byte \d+: truncated: \d+ of \d+ bytes are left",
    ]
    assert len(messages) == len(expected)
    for message, pattern in zip(messages, expected, strict=True):
        assert re.match(pattern, message), message


def test_opening_reads_no_byte_of_a_shard(dataset):
    """Shards of the right size and nothing in them open; what they lack is found when a record is read."""
    expected = index_of(dataset).digest
    for path in dataset.root.glob("full/*.tfrecord-*"):
        size = path.stat().st_size
        path.write_bytes(b"")
        os.truncate(path, size)
    index = index_of(dataset)
    assert index.digest == expected
    assert index.texts("path", np.arange(5)).tolist() == [
        record.path.encode() for record, _ in dataset.expected["full"]["train"]
    ]
    assert index_of(dataset, on_corrupt="skip").lost == 5


def test_other_files_of_the_folder_are_no_shards(dataset):
    folder = dataset.shard().parent
    for name in (
        "chest_xray-val.tfrecord-00000-of-00009",  # of another split
        "other-train.tfrecord-00000-of-00002",  # of another data set
        "chest_xray-train.tfrecord-00000-of-00002.tmp",
        "chest_xray-train.tfrecord-0-of-2",
    ):
        (folder / name).write_bytes(b"x")
    assert len(index_of(dataset)) == 5
    with pytest.raises(DatasetError, match="00000-of-00009 is not one of the 1 shards"):
        index_of(dataset, "val")


@pytest.mark.parametrize("on_corrupt", ["error", "skip"])
def test_a_folder_in_the_place_of_a_shard(dataset, on_corrupt):
    dataset.shard().unlink()
    dataset.shard().mkdir()
    if on_corrupt == "error":
        with pytest.raises(DatasetError, match=f"cannot read the shard {dataset.shard()}: "):
            index_of(dataset)
        return
    index = index_of(dataset, on_corrupt="skip")
    assert (index.lost, index.shard.tolist(), len(index.faults)) == (3, [1, 1], 1)

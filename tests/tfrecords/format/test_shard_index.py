"""One index file: its exact content, and damage at each of its parts."""

from __future__ import annotations

import dataclasses
import json
import struct

import numpy as np
import pytest

from cxr.errors import DatasetError
from tfrecords.format.framing import HEADER_BYTES, RecordWriter, masked_crc32c, read_records
from tfrecords.format.schema import RecordSchema
from tfrecords.format.shard_index import TEXTS, read_numbers, read_texts
from tfrecords.format.shards import index_path


@pytest.fixture
def index(dataset):
    """(path of an index file of three records, what the manifest says of it)."""
    return index_path(dataset.shard()), dataset.manifest.rungs["full"].shards["train"][0]


def test_the_exact_content_of_an_index(dataset, index):
    path, shard = index
    assert path.name == "chest_xray-train.index-00000-of-00002"
    about, numbers, *texts = [frame.data for frame in read_records(path)]
    assert json.loads(about) == {
        "shard": shard.blake3,
        "records": 3,
        "numbers": [
            *(["offset", "<i8"], ["length", "<i8"], ["crc", "<u4"], ["image", "<i8", [2]]),
            *(["encoding", "|u1"], ["shape", "<i4", [3]], ["label", "<i4"]),
        ],
        "texts": ["patient", "path", "cause", "pixel_hash"],
    }
    records, expected = dataset.records(), b""
    for framed, record in zip(read_records(dataset.shard()), records, strict=True):
        begin = framed.data.index(record.image)
        place = (framed.offset + HEADER_BYTES, len(framed.data), masked_crc32c(framed.data))
        span = (begin, begin + len(record.image))
        expected += struct.pack("<qqIqqBiiii", *place, *span, 1, record.height, record.width, 1, record.label)
    assert numbers == expected
    for name, column in zip(TEXTS, texts, strict=True):
        values = [getattr(record, name).encode() for record in records]
        assert column == struct.pack("<3I", *map(len, values)) + b"".join(values)
        assert list(read_texts(path, shard, name)) == values


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("multi_label", [False, True])
def test_where_the_image_lies(dataset, raw, multi_label):
    """Also where the bytes of the image, or what looks like its entry, occur earlier in the record."""
    schema = RecordSchema(raw, multi_label)
    for image in (b"", b"\x01", b"\x0a\x05image\x12", b"\x0a" * 300, bytes(70_000)):
        for cause in ("", "\n\x05image\x12\x05\n\x03\n\x01\x01", "c" * 200):
            record = dataclasses.replace(
                dataset.records()[0], image=image, cause=cause, height=1, label=(0, 2) if multi_label else 1
            )
            data = schema.serialize(record)
            begin, end = schema.image_span(record, len(data))
            assert data[begin:end] == image
            other = schema.serialize(dataclasses.replace(record, image=bytes(byte ^ 1 for byte in image)))
            assert [at for at in range(len(data)) if data[at] != other[at]] == list(range(begin, end))


def test_columns_that_a_reader_does_not_know_are_ignored(index):
    path, shard = index
    about, _, *texts = [frame.data for frame in read_records(path)]
    rows = read_numbers(path, shard, None)
    wider = np.empty(len(rows), np.dtype([("known", "u1"), *rows.dtype.descr]))
    for name in rows.dtype.names:
        wider[name] = rows[name]
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        for data in (json.dumps({**json.loads(about), "numbers": wider.dtype.descr}).encode(), wider.tobytes(), *texts):
            writer.write(data)
    shard = dataclasses.replace(shard, index_bytes=writer.bytes)
    found = read_numbers(path, shard, None)
    assert {"known", *rows.dtype.names} == set(found.dtype.names)
    assert all((found[name] == rows[name]).all() for name in rows.dtype.names)
    assert len(read_texts(path, shard, "path")) == 3


def test_every_flipped_bit_is_found(index):
    """By whoever reads the part in which it is; nobody gets another value."""
    path, shard = index
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(DatasetError, match=rf"^{path}: the index of the shard is damaged: "):
            read_numbers(path, shard, None), [read_texts(path, shard, name) for name in TEXTS]


def rewritten(change):
    """The frames of an index file, changed, with right CRCs and a size that the manifest knows."""

    def damage(path, shard):
        frames = change([frame.data for frame in read_records(path)])
        with open(path, "wb") as file:
            writer = RecordWriter(file)
            for data in frames:
                writer.write(data)
        return dataclasses.replace(shard, index_bytes=writer.bytes)

    return damage


def about(**change):
    return rewritten(lambda frames: [json.dumps({**json.loads(frames[0]), **change}).encode(), *frames[1:]])


DAMAGE = {
    "missing": (lambda path, shard: path.unlink(), "cannot read the index {path}: No such file"),
    "a folder": (lambda path, shard: (path.unlink(), path.mkdir()), "cannot read the index {path}: Is a directory"),
    "empty": (lambda path, shard: path.write_bytes(b""), r"it has 0 bytes; the manifest says \d+"),
    "longer": (lambda path, shard: path.write_bytes(path.read_bytes() + b"x"), r"it has \d+ bytes; the manifest says"),
    "no frames": (rewritten(lambda frames: []), "byte 0: the file ends after 0 of 12 bytes"),
    "no JSON": (rewritten(lambda frames: [b"{", *frames[1:]]), "its first frame is no description of an index"),
    "no object": (rewritten(lambda frames: [b"[]", *frames[1:]]), "its first frame is no description of an index"),
    "another shard": (about(shard="0" * 64), "it is the index of another shard"),
    "other records": (about(records=4), "it is the index of another shard"),
    "no columns": (about(numbers=[]), "its columns cannot be read"),
    "unknown types": (about(numbers=[["offset", "quaternion"]]), "its columns cannot be read"),
    "objects": (about(numbers=[["offset", "O"]]), "its columns cannot be read"),
    "another label": (
        rewritten(lambda frames: [frames[0].replace(b'"label", "<i4"', b'"label", "<u4"'), *frames[1:]]),
        "3 rows of .*; expected 3 of ",
    ),
    "a row less": (rewritten(lambda frames: [frames[0], frames[1][: len(frames[1]) // 3 * 2], *frames[2:]]), "2 rows"),
    "half a row": (rewritten(lambda frames: [frames[0], frames[1][:-1], *frames[2:]]), "its columns cannot be read"),
    "no texts": (rewritten(lambda frames: frames[:2]), r"byte \d+: the file ends after 0 of 12 bytes"),
    "short texts": (rewritten(lambda frames: [*frames[:2], frames[2][:-1], *frames[3:]]), "column 'patient': texts of"),
    "no lengths": (rewritten(lambda frames: [*frames[:2], b"abc", *frames[3:]]), "column 'patient': "),
}


@pytest.mark.parametrize(("damage", "fault"), DAMAGE.values(), ids=DAMAGE)
def test_what_is_not_the_index_of_the_shard_is_refused(index, damage, fault):
    path, shard = index
    changed = damage(path, shard)
    shard = changed if isinstance(changed, type(shard)) else shard
    named = "{path}" in fault
    expected = fault.replace("{path}", str(path)) if named else f"{path}: the index of the shard is damaged: {fault}"
    with pytest.raises(DatasetError, match=f"^{expected}.*copy it again from a whole copy of the data set, or make"):
        read_numbers(path, shard, None), [read_texts(path, shard, name) for name in TEXTS]

"""Reading a record without its image, against a parse of all of it, for data whole, foreign and damaged."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from cxr.errors import DatasetError
from tfrecords.format.example_proto import Example
from tfrecords.format.schema import ENCODINGS, Record, RecordSchema
from tfrecords.streaming.scan import scan_record

SCHEMAS = [RecordSchema(raw, multi_label) for raw in (False, True) for multi_label in (False, True)]
TEXTS = ["", "a", "肺/Ödem 🫁.jpeg", "x" * 127, "x" * 128, "ß" * 1023, "長い/" * 700, "p" * 5000, "z" * 40_000]
"""About the limits of a one-byte length and of what one read takes, and far above."""
IMAGE_BYTES = [1, 2, 127, 128, 1900, 2048, 2049, 4096, 65_535, 65_536, 200_001]


def scan(data: bytes, schema: RecordSchema, before: bytes = b"", after: bytes = b"") -> tuple[Record, tuple[int, int]]:
    """`scan_record` of a real file that holds `data` between other bytes."""
    with tempfile.TemporaryFile() as file:
        file.write(before + data + after)
        file.flush()
        return scan_record(file.fileno(), len(before), len(data), schema)


def random_record(rng: np.random.Generator, schema: RecordSchema) -> Record:
    """Any record that the schema can store; the image is noise, which nobody here decodes."""
    labels = tuple(rng.integers(0, 300, rng.choice([0, 1, 2, 14, 200])).tolist())
    return Record(
        image=rng.bytes(int(rng.choice(IMAGE_BYTES))),
        encoding="raw" if schema.raw else str(rng.choice(ENCODINGS[:2])),
        height=int(rng.choice([1, 127, 128, 3000, 2**31 - 1])),
        width=int(rng.choice([1, 127, 128, 3000, 2**31 - 1])),
        channels=int(rng.choice([1, 3])),
        bit_depth=int(rng.choice([8, 16])),
        label=labels if schema.multi_label else int(rng.integers(0, 20)),
        cause=str(rng.choice(TEXTS)),
        patient=str(rng.choice(TEXTS)),
        path=str(rng.choice(TEXTS)),
        pixel_hash=rng.bytes(32).hex(),
    )


def small_record(schema: RecordSchema, **change) -> Record:
    """A record of about 300 bytes."""
    record = Record(bytes(range(1, 13)), "raw" if schema.raw else "png", 3, 4, 1, 8, 1, "virus", "p1", "a/肺.png", "ab")
    return dataclasses.replace(record, label=(0, 2) if schema.multi_label else 1, **change)


def is_read(record: Record, data: bytes, schema: RecordSchema) -> None:
    """The scan of `data` is `record` without its image, and its span is the image."""
    found, (begin, end) = scan(data, schema, before=b"\x0a" * 77, after=b"\x0a" * 4000)
    assert found == dataclasses.replace(record, image=b"") == dataclasses.replace(schema.parse(data), image=b"")
    assert data[begin:end] == record.image


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_a_scan_is_a_parse_without_the_image(schema):
    rng = np.random.default_rng(5)
    for _ in range(100):
        record = random_record(rng, schema)
        is_read(record, schema.serialize(record), schema)


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_every_place_of_the_image_in_the_read_window(schema):
    """What lies before the image, and so the image itself, moves over the end of the first read byte by byte."""
    for length in range(1800, 2100):
        record = small_record(schema, cause="c" * length, image=b"\x0a\x12" * 1000)
        is_read(record, schema.serialize(record), schema)


def in_order(data: bytes, order: Callable[[list[str]], list[str]]) -> bytes:
    """The same `tf.train.Example` with the entries of its map in another order, as another program may write it."""
    stored = Example.FromString(data).features.feature
    entries = b""
    for key in order(sorted(stored)):
        one = Example()
        one.features.feature[key].CopyFrom(stored[key])
        entries += one.features.SerializeToString()
    return b"\x0a" + varint(len(entries)) + entries


def varint(value: int) -> bytes:
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_what_tensorflow_writes(schema):
    """Neither does TensorFlow sort the map, nor need it."""
    rng = np.random.default_rng(6)
    unsorted = 0
    for number in range(60):
        record = random_record(rng, schema)
        ours = schema.serialize(record)
        example = tf.train.Example()
        for key in rng.permutation(sorted(Example.FromString(ours).features.feature)):
            stored = Example.FromString(ours).features.feature[key]
            example.features.feature[str(key)].ParseFromString(stored.SerializeToString())
        data = example.SerializeToString()
        unsorted += data != ours
        is_read(record, data, schema)
        is_read(record, in_order(ours, lambda keys: rng.permutation(keys).tolist()), schema)
        if number == 0:
            is_read(record, in_order(ours, lambda keys: keys[::-1]), schema)
    assert unsorted > 0


def test_a_value_before_its_key_is_refused():
    """Valid protobuf that no serializer writes: refused, never misread."""
    schema = SCHEMAS[0]
    record = small_record(schema)
    stored = Example.FromString(schema.serialize(record)).features.feature
    entries = b""
    for key in sorted(stored):
        value = stored[key].SerializeToString()
        entry = b"\x12" + varint(len(value)) + value + b"\x0a" + varint(len(key)) + key.encode()
        entries += b"\x0a" + varint(len(entry)) + entry
    data = b"\x0a" + varint(len(entries)) + entries
    assert schema.parse(data) == record
    with pytest.raises(DatasetError, match=r"^not a serialized tf.train.Example: byte \d+ is 12$"):
        scan(data, schema)


def test_features_that_nobody_asked_for_are_passed_over():
    for schema in SCHEMAS:
        record = small_record(schema)
        example = Example.FromString(schema.serialize(record))
        example.features.feature["aaa"].float_list.value.extend([1.0] * 1000)
        example.features.feature["image/sharpness"].bytes_list.value.append(b"\x0a" * 3000)
        example.features.feature["zzz"].SetInParent()
        is_read(record, example.SerializeToString(deterministic=True), schema)


def set_image(kind: str, *values) -> Callable:
    def edit(stored, key):
        stored.pop(key)
        items = getattr(stored[key], kind).value
        items.extend(values)
        getattr(stored[key], kind).SetInParent()

    return edit


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda stored, key: stored.pop(key), r"feature 'image.*' is missing"),
        (lambda stored, key: stored.pop("path"), r"feature 'path' is missing; the record has "),
        (lambda stored, key: stored["path"].bytes_list.value.append(b"x"), r"feature 'path': expected one text value"),
        (lambda stored, key: stored["height"].bytes_list.value.append(b"x"), r"feature 'height': expected int values"),
        (
            lambda stored, key: stored["cause"].bytes_list.value.__setitem__(0, b"\xff"),
            r"feature 'cause' is not UTF-8 text",
        ),
        (set_image("int64_list", 3), r"not a serialized tf.train.Example: byte \d+ is 1a"),
        (set_image("bytes_list"), r"not a serialized tf.train.Example: "),
        (lambda stored, key: (stored.pop(key), stored[key].SetInParent()), r"not a serialized tf.train.Example: "),
    ],
    ids=["no image", "no path", "two paths", "text height", "not UTF-8", "int image", "no value", "unset image"],
)
def test_another_programs_example_is_refused_by_name(schema, edit, fault):
    example = Example.FromString(schema.serialize(small_record(schema)))
    edit(example.features.feature, "image/value" if schema.raw else "image")
    data = example.SerializeToString(deterministic=True)
    with pytest.raises(DatasetError, match=fault):
        scan(data, schema)
    with pytest.raises(DatasetError):
        schema.parse(data)


def test_an_image_without_bytes_has_an_empty_span():
    for schema in SCHEMAS:
        record = small_record(schema, image=b"")
        is_read(record, schema.serialize(record), schema)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\x0a", b"\x0a\0", b"\x0a" + b"\xff" * 10, b"garbage" * 400, b"\x0a" * 99]
)
def test_garbage_is_refused(data):
    with pytest.raises(DatasetError):
        scan(data, SCHEMAS[0])


def test_raw_and_file_layouts_are_told_apart():
    for schema, other in ((SCHEMAS[0], SCHEMAS[2]), (SCHEMAS[2], SCHEMAS[0])):
        with pytest.raises(DatasetError, match="is missing"):
            scan(schema.serialize(small_record(schema)), other)


SECOND = Example()
SECOND.features.feature["label"].int64_list.value.append(2)


def both_images(data: bytes) -> bytes:
    """With a feature of the other layout beside the image."""
    example = Example.FromString(data)
    other = "image" if "image/value" in example.features.feature else "image/value"
    example.features.feature[other].bytes_list.value.append(b"foreign")
    return example.SerializeToString(deterministic=True)


def two_values(data: bytes) -> bytes:
    """With two images in the list."""
    example = Example.FromString(data)
    key = "image/value" if "image/value" in example.features.feature else "image"
    example.features.feature[key].bytes_list.value.append(b"second")
    return example.SerializeToString(deterministic=True)


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
@pytest.mark.parametrize(
    "forge",
    [
        two_values,
        lambda data: data + SECOND.SerializeToString(),
        lambda data: data + b"\xff\xff",
    ],
    ids=["two images", "a second list of features", "bytes behind"],
)
def test_a_scan_never_accepts_what_a_parse_reads_otherwise(schema, forge):
    agree(forge(schema.serialize(small_record(schema))), schema)


@pytest.mark.parametrize(
    ("schema", "order"), [(SCHEMAS[0], sorted), (SCHEMAS[2], lambda keys: sorted(keys)[::-1])], ids=["file", "raw"]
)
def test_an_image_of_the_other_layout_is_a_feature_like_any_other(schema, order):
    agree(in_order(both_images(schema.serialize(small_record(schema))), order), schema)


def agree(data: bytes, schema: RecordSchema) -> None:
    """The scan refuses the data, or reads what a parse does."""
    try:
        whole = schema.parse(data)
    except DatasetError:
        whole = None
    try:
        found, (begin, end) = scan(data, schema)
    except DatasetError:
        return
    assert whole is not None
    assert (found, data[begin:end]) == (dataclasses.replace(whole, image=b""), whole.image)


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_damage_is_an_error_of_the_data_set_or_stays_within_the_data(schema):
    """Thousands of cut, flipped and overwritten records: DatasetError or a span inside, and nothing else."""
    rng = np.random.default_rng(7)
    data = schema.serialize(small_record(schema))
    refused = 0
    for case in range(1500):
        damaged = bytearray(data)
        if case % 3 == 0:
            del damaged[int(rng.integers(0, len(data))) :]
        else:
            for place in rng.integers(0, len(data), int(rng.integers(1, 4 if case % 3 == 1 else 40))):
                damaged[place] = damaged[place] ^ 1 << rng.integers(0, 8) if case % 3 == 1 else rng.integers(0, 256)
        try:
            record, (begin, end) = scan(bytes(damaged), schema, after=data)
        except DatasetError as error:
            refused += 1
            assert str(error)
            continue
        assert record.image == b""
        assert 0 <= begin <= end <= len(damaged)
    assert 750 < refused < 1500


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_data_cut_at_any_byte_is_refused(schema):
    data = schema.serialize(small_record(schema))
    for cut in range(len(data)):
        with pytest.raises(DatasetError):
            scan(data[:cut], schema, after=data)


def test_a_file_that_has_become_shorter_is_refused_at_any_byte(tmp_path: Path):
    schema = SCHEMAS[0]
    data = schema.serialize(small_record(schema))
    (tmp_path / "file").write_bytes(data)
    with open(tmp_path / "file", "r+b") as file:
        for cut in range(len(data) - 1, -1, -1):
            os.truncate(file.fileno(), cut)
            with pytest.raises(DatasetError):
                scan_record(file.fileno(), 0, len(data), schema)

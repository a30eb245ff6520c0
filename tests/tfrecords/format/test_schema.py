"""The feature table: our serializer and parser against `tf.train.Example`, in one process with TensorFlow."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from cxr.errors import DatasetError
from tfrecords.format.example_proto import Example
from tfrecords.format.schema import GROUPS, Record, RecordSchema

FILE = Record(
    image=b"\xff\xd8 not decoded here \x00\xff",
    encoding="jpeg",
    height=2,
    width=3,
    channels=1,
    bit_depth=8,
    label=1,
    cause="bacteria",
    patient="person1_bacteria",
    path="train/PNEUMONIA/person1_bacteria_1.jpeg",
    pixel_hash="ab" * 32,
)
RAW = dataclasses.replace(FILE, image=bytes(range(6)), encoding="raw")
UNICODE = {"path": "tráin/肺炎/Ödem 🫁.jpeg", "patient": "مريض", "cause": ""}

CASES = {
    "file": (RecordSchema(False, False), FILE),
    "raw": (RecordSchema(True, False), RAW),
    "multi-label": (RecordSchema(False, True), dataclasses.replace(FILE, label=(0, 2, 13))),
    "no label": (RecordSchema(False, True), dataclasses.replace(FILE, label=())),
    "raw, no label": (RecordSchema(True, True), dataclasses.replace(RAW, label=())),
    "unknown labels and groups": (
        RecordSchema(False, True, True, ("sex", "site")),
        dataclasses.replace(FILE, label=(2,), unknown=(0, 1), sex="F", site="Zürich"),
    ),
    "unicode": (RecordSchema(False, False), dataclasses.replace(FILE, **UNICODE)),
    "empty": (RecordSchema(False, False), dataclasses.replace(FILE, image=b"", patient="", path="", pixel_hash="")),
    "extremes": (RecordSchema(False, False), dataclasses.replace(FILE, height=2**63 - 1, label=-(2**63))),
}
every_case = pytest.mark.parametrize(("schema", "record"), CASES.values(), ids=CASES.keys())


def expected_features(schema: RecordSchema, record: Record) -> dict[str, list]:
    """The features of a record, written out by hand."""
    features = {
        name: [value.encode() if isinstance(value, str) else value]
        for name, value in dataclasses.asdict(record).items()
        if name not in ("unknown", *GROUPS) or name in schema.groups
    }
    if schema.unknown_labels:
        features["unknown"] = list(record.unknown)
    if schema.multi_label:
        features["label"] = list(record.label)
    if schema.raw:
        features["image/value"] = features.pop("image")
        features["image/shape"] = [record.height, record.width, record.channels]
    return features


def stored(schema: RecordSchema = CASES["file"][0], record: Record = FILE) -> tf.train.Example:
    return tf.train.Example.FromString(schema.serialize(record))


@every_case
def test_what_is_serialized_is_parsed_here_and_by_tensorflow(schema, record):
    data = schema.serialize(record)
    assert schema.parse(data) == record
    example = tf.train.Example.FromString(data)
    found = {
        name: list(getattr(feature, feature.WhichOneof("kind") or "int64_list").value)
        for name, feature in example.features.feature.items()
    }
    assert found == expected_features(schema, record)
    assert example.SerializeToString(deterministic=True) == data


@every_case
def test_what_tensorflow_serializes_is_parsed(schema, record):
    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if values and isinstance(values[0], bytes)
        else tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        for name, values in expected_features(schema, record).items()
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    assert schema.parse(example.SerializeToString()) == record


def test_numpy_integers_are_stored_as_integers():
    numbers = {name: np.int64(getattr(FILE, name)) for name in ("height", "width", "channels", "bit_depth", "label")}
    schema = RecordSchema(False, False)
    assert schema.serialize(dataclasses.replace(FILE, **numbers)) == schema.serialize(FILE)


def test_our_messages_and_those_of_tensorflow_are_apart_in_one_process():
    ours, theirs = Example(), tf.train.Example()
    ours.features.feature["a"].float_list.value.append(0.5)
    theirs.features.feature["a"].float_list.value.append(0.5)
    assert type(ours) is not type(theirs)
    assert ours.DESCRIPTOR.file.pool is not theirs.DESCRIPTOR.file.pool
    assert (
        ours.SerializeToString() == theirs.SerializeToString() == bytes.fromhex("0a0f0a0d0a016112081206 0a040000003f")
    )


@pytest.mark.parametrize(
    ("schema", "change", "feature", "kind"),
    [
        (RecordSchema(False, False), {"image": "text"}, "image", "bytes"),
        (RecordSchema(False, False), {"image": None}, "image", "bytes"),
        (RecordSchema(True, False), {"image": "text"}, "image/value", "bytes"),
        (RecordSchema(True, False), {"height": "2"}, "image/shape", "int"),
        (RecordSchema(False, False), {"height": 2.5}, "height", "int"),
        (RecordSchema(False, False), {"width": 2**64}, "width", "int"),
        (RecordSchema(False, False), {"label": (0, 1)}, "label", "int"),
        (RecordSchema(False, False), {"label": "NORMAL"}, "label", "int"),
        (RecordSchema(False, True), {"label": 1}, "label", "int"),
        (RecordSchema(False, True), {"label": ("NORMAL",)}, "label", "int"),
        (RecordSchema(False, False), {"cause": None}, "cause", "text"),
        (RecordSchema(False, False), {"patient": b"p"}, "patient", "text"),
        (RecordSchema(False, False), {"pixel_hash": 7}, "pixel_hash", "text"),
        (RecordSchema(False, False), {"cause": "\udcff"}, "cause", "text"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_feature_and_path(schema, change, feature, kind):
    with pytest.raises(ValueError) as raised:
        schema.serialize(dataclasses.replace(FILE, **change))
    assert str(raised.value).startswith(f"feature '{feature}' of {FILE.path}: expected {kind}, received ")


@pytest.mark.parametrize("raw", [False, True])
def test_each_feature_that_is_missing_is_named(raw):
    schema = RecordSchema(raw, False)
    for feature in schema.features:
        example = stored(schema, RAW if raw else FILE)
        del example.features.feature[feature.key]
        with pytest.raises(
            DatasetError, match=rf"^feature '{feature.key}' is missing; the record has (bit_depth|cause), "
        ):
            schema.parse(example.SerializeToString())


@pytest.mark.parametrize("count", [0, 2])
def test_each_feature_with_the_wrong_count_is_named(count):
    schema = RecordSchema(False, False)
    for feature in schema.features:
        example = stored()
        values = getattr(example.features.feature[feature.key], "int64_list" if feature.kind == "int" else "bytes_list")
        values.value[:] = list(values.value) * count
        with pytest.raises(
            DatasetError, match=rf"^feature '{feature.key}': expected one {feature.kind} value, received"
        ):
            schema.parse(example.SerializeToString())


@pytest.mark.parametrize("multi_label", [False, True])
def test_each_feature_stored_as_another_type_is_named(multi_label):
    schema = RecordSchema(False, multi_label)
    record = dataclasses.replace(FILE, label=(1,)) if multi_label else FILE
    for feature in schema.features:
        example = stored(schema, record)
        example.features.feature[feature.key].float_list.value[:] = [1.0]
        with pytest.raises(
            DatasetError, match=rf"^feature '{feature.key}': expected {feature.kind} values, received a fl"
        ):
            schema.parse(example.SerializeToString())


@pytest.mark.parametrize("feature", ["encoding", "cause", "patient", "path", "pixel_hash"])
def test_text_that_is_not_utf_8_is_named(feature):
    example = stored()
    example.features.feature[feature].bytes_list.value[:] = [b"\xff\xfe"]
    with pytest.raises(DatasetError, match=rf"^feature '{feature}' is not UTF-8 text"):
        RecordSchema(False, False).parse(example.SerializeToString())


@pytest.mark.parametrize("shape", [(3, 2, 1), (2, 3, 3), (2, 3), (2, 3, 1, 1), ()])
def test_a_raw_image_whose_shape_contradicts_the_record_is_refused(shape):
    schema = RecordSchema(True, False)
    example = stored(schema, RAW)
    example.features.feature["image/shape"].int64_list.value[:] = shape
    with pytest.raises(DatasetError, match=r"^feature 'image/shape' is .*height, width and channels are \(2, 3, 1\)"):
        schema.parse(example.SerializeToString())


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x0a\x50abc", RecordSchema(False, False).serialize(FILE)[:-3]])
def test_bytes_that_are_no_example_are_refused(data):
    with pytest.raises(DatasetError, match=r"^not a serialized tf.train.Example"):
        RecordSchema(False, False).parse(data)


def test_an_empty_record_has_no_features():
    with pytest.raises(DatasetError, match=r"feature 'image' is missing; the record has none"):
        RecordSchema(False, False).parse(b"")


def test_a_record_of_another_layout_is_refused():
    with pytest.raises(DatasetError, match=r"feature 'image/shape' is missing"):
        RecordSchema(True, False).parse(RecordSchema(False, False).serialize(FILE))

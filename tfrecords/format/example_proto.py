"""`tf.train.Example` without TensorFlow: the same wire format, from Protocol Buffers alone.

The message is built at import time in a descriptor pool of its own, so it never collides with
TensorFlow's copy when both are loaded in one process. Field numbers are those of
tensorflow/core/example/{example,feature}.proto.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "cxr_stream"


def _add_field(message: Any, name: str, number: int, kind: int, *, repeated: bool = False, type_name: str = "") -> Any:
    field = message.field.add(name=name, number=number, type=kind)
    field.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
    if type_name:
        field.type_name = f".{_PACKAGE}.{type_name}"
    return field


def _build_example_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="cxr_stream/example.proto", package=_PACKAGE, syntax="proto3")

    for name, kind in (
        ("BytesList", _FIELD.TYPE_BYTES),
        ("FloatList", _FIELD.TYPE_FLOAT),
        ("Int64List", _FIELD.TYPE_INT64),
    ):
        _add_field(file.message_type.add(name=name), "value", 1, kind, repeated=True)

    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, type_name) in enumerate(
        (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")), start=1
    ):
        _add_field(feature, name, number, _FIELD.TYPE_MESSAGE, type_name=type_name).oneof_index = 0

    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    _add_field(entry, "key", 1, _FIELD.TYPE_STRING)
    _add_field(entry, "value", 2, _FIELD.TYPE_MESSAGE, type_name="Feature")
    _add_field(features, "feature", 1, _FIELD.TYPE_MESSAGE, repeated=True, type_name="Features.FeatureEntry")

    _add_field(file.message_type.add(name="Example"), "features", 1, _FIELD.TYPE_MESSAGE, type_name="Features")

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Example"))


Example = _build_example_class()

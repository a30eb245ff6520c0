"""`tf.train.Example` without TensorFlow: the same wire format, from Protocol Buffers alone.

The message is built at import time in a descriptor pool of its own, so it never collides with
TensorFlow's copy when both are loaded in one process. Field numbers are those of
tensorflow/core/example/{example,feature}.proto.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_FILE = """
name: "cxr_stream/example.proto" package: "cxr_stream" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 type: TYPE_BYTES label: LABEL_REPEATED } }
message_type { name: "FloatList" field { name: "value" number: 1 type: TYPE_FLOAT label: LABEL_REPEATED } }
message_type { name: "Int64List" field { name: "value" number: 1 type: TYPE_INT64 label: LABEL_REPEATED } }
message_type {
  name: "Feature"
  oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 type_name: ".cxr_stream.BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 type_name: ".cxr_stream.FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 type_name: ".cxr_stream.Int64List" oneof_index: 0 }
}
message_type {
  name: "Features"
  nested_type {
    name: "FeatureEntry"
    options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
    field { name: "value" number: 2 type_name: ".cxr_stream.Feature" label: LABEL_OPTIONAL }
  }
  field { name: "feature" number: 1 type_name: ".cxr_stream.Features.FeatureEntry" label: LABEL_REPEATED }
}
message_type { name: "Example" field { name: "features" number: 1 type_name: ".cxr_stream.Features" } }
"""


def _build_example_class() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_FILE, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("cxr_stream.Example"))


Example = _build_example_class()

"""Records to tensors, inside a `tf.data` graph. The TensorFlow side of `schema.py` and `codec.py`."""

from __future__ import annotations

import tensorflow as tf

from tfrecords.schema import RecordSchema

JPEG_START = b"\xff\xd8"


def parse_spec(schema: RecordSchema) -> dict[str, tf.io.FixedLenFeature | tf.io.RaggedFeature]:
    """What `tf.io.parse_example` needs to know of a feature table."""
    return {
        feature.key: (
            tf.io.RaggedFeature(tf.int64)
            if feature.repeated and feature.key == "label"
            else tf.io.FixedLenFeature(
                [3] if feature.repeated else [], tf.int64 if feature.kind == "int" else tf.string
            )
        )
        for feature in schema.features
    }


def decode_file(data: tf.Tensor, channels: int, bit_depth: int) -> tf.Tensor:
    """Decodes a JPEG or PNG file to exact pixels.

    Args:
      data: string scalar.
      channels: 1 or 3; a grey file asked for 3 repeats its channel.
      bit_depth: 8 or 16; 16 only for PNG.

    Returns:
      uint8 or uint16 [height, width, channels].
    """
    dtype = tf.uint16 if bit_depth == 16 else tf.uint8

    def png() -> tf.Tensor:
        return tf.io.decode_png(data, channels=channels, dtype=dtype)

    if bit_depth == 16:
        return png()
    return tf.cond(
        tf.strings.substr(data, 0, len(JPEG_START)) == JPEG_START,
        lambda: tf.io.decode_jpeg(data, channels=channels, dct_method="INTEGER_ACCURATE"),
        png,
    )


def decode_record(serialized: tf.Tensor, schema: RecordSchema, channels: int, bit_depth: int) -> dict[str, tf.Tensor]:
    """Parses and decodes one record.

    Args:
      serialized: string scalar, a `tf.train.Example`.
      schema: the data set's feature table.
      channels: 1 or 3; grey images asked for 3 repeat their channel, and colour images asked for 1 fail.
      bit_depth: 8 or 16, that of the data set.

    Returns:
      Every feature of the table, with `image` uint8 or uint16 [height, width, channels].
    """
    values = tf.io.parse_single_example(serialized, parse_spec(schema))
    tf.debugging.assert_less_equal(
        values["channels"], tf.constant(channels, tf.int64), "a colour image cannot be read as grey; ask for 3 channels"
    )
    if schema.raw:
        image = tf.reshape(
            tf.io.decode_raw(values.pop("image/value"), tf.uint16 if bit_depth == 16 else tf.uint8),
            values.pop("image/shape"),
        )
        if channels == 3:
            shape = tf.shape(image)
            image = tf.broadcast_to(image, [shape[0], shape[1], 3])
        values["image"] = image
    else:
        values["image"] = decode_file(values["image"], channels, bit_depth)
    values["image"].set_shape([None, None, channels])
    return values

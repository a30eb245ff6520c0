"""Reads a record without reading its image.

A shard can only be walked from record to record, but what training has to know before the first image, how
many records there are, where, of which size and label, is a few hundred bytes of each. A serialized
`tf.train.Example` is one message around a list of entries, each with its length in front; the entry of the image
is stepped over, and the others together are a record with an empty image, which `RecordSchema.parse` reads.
Wire format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import os

from cxr.errors import DatasetError
from tfrecords.format.example_proto import Example
from tfrecords.format.schema import Record, RecordSchema

_READ_BYTES = 2048
"""What one read takes: all but the image and, rarely, a very long path fits."""
_LARGEST_ENTRY = 1 << 20
_TAG = 0x0A
"""Field 1, length-delimited: every field that is stepped through here."""


def _empty_image(key: str) -> bytes:
    """The entry of an image without bytes."""
    example = Example()
    example.features.feature[key].bytes_list.value.append(b"")
    return example.features.SerializeToString()


_IMAGES = {raw: (key.encode(), _empty_image(key)) for raw, key in ((False, "image"), (True, "image/value"))}
"""By layout, see `RecordSchema.raw`: the key of the image, and an entry for it without bytes."""


def scan_record(descriptor: int, offset: int, length: int, schema: RecordSchema) -> tuple[Record, tuple[int, int]]:
    """Reads all but the image of one record.

    Args:
      descriptor: the shard, open for reading.
      offset: byte offset in the file at which the record's data (behind its frame's header) begins.
      length: bytes of the data.
      schema: the feature table.

    Returns:
      the record with an empty `image`, and where in the data the image begins and ends.

    Raises:
      DatasetError: the data is not such a record.
    """
    window = _Window(descriptor, offset, length)
    image_key, without_image = _IMAGES[schema.raw]
    start, stop = window.field(0, length)
    if stop != length:
        raise DatasetError(f"not a serialized tf.train.Example: {length - stop} bytes follow its features")
    entries: list[bytes] = []
    image = None
    while start < stop:
        start = window.short_entries(start, stop, image_key, entries)
        if start == stop:
            break
        begin, end = window.field(start, stop)
        key_begin, key_end = window.field(begin, end)
        if window.at(key_begin, key_end - key_begin) == image_key:
            entries.append(without_image)
            image = window.only_value(key_end, end)
        elif end - start > _LARGEST_ENTRY:
            raise DatasetError(f"the feature at byte {start} has {end - start} bytes; only the image may be that large")
        else:
            entries.append(window.at(start, end - start))
        start = end
    if image is None:
        raise DatasetError(f"feature '{image_key.decode()}' is missing")
    features = b"".join(entries)
    return schema.parse(bytes([_TAG]) + _to_varint(len(features)) + features), image


def _to_varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class _Window:
    """A record's data, read piece by piece as it is looked at."""

    def __init__(self, descriptor: int, offset: int, length: int):
        self._descriptor, self._offset, self._length = descriptor, offset, length
        self._start, self._bytes = 0, b""

    def at(self, start: int, count: int) -> bytes:
        """Bytes [start, start + count); fewer only at the end of the record."""
        begin = start - self._start
        if begin < 0 or begin + count > len(self._bytes):
            want = min(max(count, _READ_BYTES), self._length - start)
            self._start, begin = start, 0
            self._bytes = os.pread(self._descriptor, max(0, want), self._offset + start)
        return self._bytes[begin : begin + count]

    def field(self, start: int, stop: int, tag: int = _TAG) -> tuple[int, int]:
        """[begin, end) of the content of the length-delimited field at `start`, within `stop`."""
        header = self.at(start, 11)
        if not header or header[0] != tag:
            raise DatasetError(f"not a serialized tf.train.Example: byte {start} is {header[:1].hex() or 'missing'}")
        size = shift = 0
        for position, byte in enumerate(header[1:], start + 2):
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                if position + size > stop:
                    raise DatasetError(f"not a serialized tf.train.Example: the field at byte {start} is too long")
                return position, position + size
            shift += 7
        raise DatasetError(f"not a serialized tf.train.Example: the length at byte {start + 1} does not end")

    def short_entries(self, start: int, stop: int, but: bytes, entries: list[bytes]) -> int:
        """Collects the entries from `start` on as long as they are at hand, short, and not that of the key `but`.

        That is nearly all of a record; `field` would take three times as long for it.

        Returns:
          where the first entry begins that was not collected.
        """
        self.at(start, min(_READ_BYTES, stop - start))
        data, at, last = self._bytes, start - self._start, min(len(self._bytes), stop - self._start)
        not_this = bytes([_TAG, len(but)]) + but
        while at + 3 <= last and data[at] == data[at + 2] == _TAG and data[at + 1] < 0x80:
            end = at + 2 + data[at + 1]
            if end > last or data.startswith(not_this, at + 2):
                break
            entries.append(data[at:end])
            at = end
        return self._start + at

    def only_value(self, start: int, stop: int) -> tuple[int, int]:
        """[begin, end) of the one value in the BytesList of the Feature at `start`, which ends at `stop`."""
        span = self.field(start, stop, tag=0x12)  # field 2 of a map entry: its value
        for _ in range(2):  # field 1 of Feature: bytes_list; field 1 of BytesList: a value
            span = self.field(*span)
            if span[1] != stop:
                raise DatasetError(f"not one image: {stop - span[1]} bytes follow it in its feature")
        return span

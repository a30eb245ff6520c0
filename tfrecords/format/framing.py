"""TFRecord framing: how records lie in a shard file.

Each record is: uint64 length, uint32 masked CRC32C of the length, the data, uint32 masked CRC32C of the
data, little-endian. Masking is `((crc >> 15) | (crc << 17)) + 0xa282ead8` modulo 2**32
(tensorflow/core/lib/hash/crc32c.h), so that a CRC stored beside its own bytes stays a useful CRC.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import blake3
import google_crc32c

from cxr.errors import CorruptError, DatasetError

HEADER_BYTES = 12
FOOTER_BYTES = 4
_MASK_DELTA = 0xA282EAD8
_READ_BYTES = 1 << 22


def masked_crc32c(data: bytes) -> int:
    """The masked CRC32C of `data`, in [0, 2**32)."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


class Place(NamedTuple):
    """Where the data of a record lies in its file, offset and length in bytes, and its masked CRC32C."""

    offset: int
    length: int
    crc: int


class RecordWriter:
    """Appends framed records to an open binary file, keeping count, byte size and BLAKE3 of what it wrote."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._hasher = blake3.blake3()
        self.records = 0
        self.bytes = 0

    def write(self, data: bytes) -> Place:
        """Appends one record and returns where its data lies."""
        length, crc, offset = struct.pack("<Q", len(data)), masked_crc32c(data), self.bytes + HEADER_BYTES
        for part in (length + struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", crc)):
            self._file.write(part)
            self._hasher.update(part)
            self.bytes += len(part)
        self.records += 1
        return Place(offset, len(data), crc)

    @property
    def checksum(self) -> str:
        """BLAKE3 of the bytes written so far, 64 hex digits."""
        return self._hasher.hexdigest()


@dataclasses.dataclass(frozen=True)
class FramedRecord:
    """A record as it lies in a file: its index from 0, the byte offset of its frame, and its data."""

    index: int
    offset: int
    data: bytes

    @property
    def place(self) -> Place:
        """Where the data lies."""
        return Place(self.offset + HEADER_BYTES, len(self.data), masked_crc32c(self.data))


def read_records(path: str | Path, faults: list[CorruptError] | None = None) -> Iterator[FramedRecord]:
    """Yields the records of a shard, every CRC checked.

    Args:
      path: the shard file.
      faults: where given, a record whose data fails its CRC is appended here and skipped, and so is
        whatever else is wrong, instead of being raised; after a broken length nothing more can be read.

    Raises:
      CorruptError: a length or data that fails its CRC, or a file that ends inside a record.
      DatasetError: the file does not exist or cannot be read.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise DatasetError(f"cannot read the shard {path}: {error.strerror}") from error
    with file:
        file_bytes = file.seek(0, 2)
        file.seek(0)
        index = offset = 0
        while offset < file_bytes:
            fault, fatal, data = read_frame(file, file_bytes - offset)
            if fault is None:
                yield FramedRecord(index, offset, data)
            elif faults is None:
                raise CorruptError(path, index, offset, fault)
            else:
                faults.append(CorruptError(path, index, offset, fault))
                if fatal:
                    return
            index += 1
            offset += HEADER_BYTES + len(data) + FOOTER_BYTES


def check_header(header: bytes, left: int) -> tuple[str | None, int]:
    """(what is wrong or None, bytes of data) of a record whose frame begins with `header`.

    Args:
      header: the first `HEADER_BYTES` of the frame, fewer where the file ends in them.
      left: bytes of the file from the beginning of the frame on.
    """
    if len(header) < HEADER_BYTES:
        return f"the file ends after {len(header)} of {HEADER_BYTES} bytes of a record's header", 0
    length, length_crc = struct.unpack("<QI", header)
    if masked_crc32c(header[:8]) != length_crc:
        return "the length does not match its CRC", 0
    needed = HEADER_BYTES + length + FOOTER_BYTES
    if needed > left:
        return f"truncated: the record needs {needed} bytes, the file has {left} left", 0
    return None, length


def check_data(data: bytes, length: int, crc: int) -> str | None:
    """What is wrong with a record's data, given its length and its masked CRC32C, or None."""
    if len(data) != length:
        return f"truncated: {len(data)} of {length} bytes are left; the file was changed"
    return None if masked_crc32c(data) == crc else f"the data ({len(data)} bytes) does not match its CRC"


def read_frame(file: BinaryIO, left: int) -> tuple[str | None, bool, bytes]:
    """Reads one record: (fault or None, whether the next one cannot be found, data).

    Args:
      file: at the begin of the record's frame.
      left: bytes of the file from there on.
    """
    fault, length = check_header(file.read(HEADER_BYTES), left)
    if fault is not None:
        return fault, True, b""
    data = file.read(length)
    (crc,) = struct.unpack("<I", file.read(FOOTER_BYTES))
    return check_data(data, length, crc), False, data


def hash_file(path: str | Path) -> str:
    """BLAKE3 of a whole file, 64 hex digits."""
    hasher = blake3.blake3()
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            hasher.update(block)
    return hasher.hexdigest()

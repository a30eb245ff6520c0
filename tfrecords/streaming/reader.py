"""Random access to the images of a split: read, CRC, decode."""

from __future__ import annotations

import functools
import os
import weakref
from pathlib import Path

import numpy as np

from cxr.errors import CorruptError, CxrError, DatasetError
from tfrecords.format.framing import FOOTER_BYTES, HEADER_BYTES, check_data
from tfrecords.format.manifest import Manifest
from tfrecords.format.schema import ENCODINGS, Record
from tfrecords.images import codec
from tfrecords.streaming.scan import scan_record
from tfrecords.streaming.split_index import SplitIndex

_OPEN_FILES = 256
"""Shards that a process keeps open, all readers together: those read last."""


class _OpenFile:
    """A file descriptor that closes when nobody refers to it any more."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)


@functools.lru_cache(maxsize=_OPEN_FILES)
def open_shard(path: Path, digest: str) -> _OpenFile:
    """A shard of the data set of that digest; another data set may come to lie under the same path."""
    return _OpenFile(path)


class RecordReader:
    """Reads records of an index by row, from any number of threads.

    It reads with `pread` rather than through a memory map: a file that shrinks is then an error and not a signal
    that kills the process, and the pages read do not count as this process's memory.
    """

    def __init__(self, index: SplitIndex, manifest: Manifest, rung: str, channels: int):
        """Opens nothing yet.

        Args:
          index: of the split.
          manifest: of the data set.
          rung: name of the rung that was indexed.
          channels: of the images returned: 3 repeats grey, 1 turns colour into luma (ITU-R BT.601).
        """
        self.index = index
        self.channels = channels
        self.dtype = np.dtype(np.uint16 if manifest.bit_depth == 16 else np.uint8)
        self._bit_depth = manifest.bit_depth
        self._schema = manifest.schema(rung)
        self._digest = manifest.digest

    def data(self, row: int, check: bool = True) -> bytes:
        """The data of a record.

        Args:
          row: of the index.
          check: hold the data against its CRC.

        Raises:
          CorruptError: the CRC does not match, or the file has become shorter.
          DatasetError: the file cannot be read.
        """
        index = self.index
        offset, length = int(index.offset[row]), int(index.length[row])
        try:
            file = open_shard(index.paths[index.shard[row]], self._digest)
            data = os.pread(file.descriptor, length, offset)
            footer = os.pread(file.descriptor, FOOTER_BYTES, offset + length)
        except OSError as error:
            raise DatasetError(f"cannot read the shard {index.paths[index.shard[row]]}: {error.strerror}") from error
        if len(footer) != FOOTER_BYTES or len(data) != length:
            raise self._corrupt(row, f"truncated: {len(data)} of {length} bytes are left; the file was changed")
        fault = check_data(data, footer) if check else None
        if fault is not None:
            raise self._corrupt(row, fault)
        return data

    def image(self, row: int) -> np.ndarray:
        """The pixels of a record: uint8 or uint16 [height, width, channels].

        Raises:
          CorruptError: the record is damaged.
          DatasetError: the file cannot be read.
        """
        return self.decode(row, self.data(row))

    def decode(self, row: int, data: bytes) -> np.ndarray:
        """The pixels of a record whose data is at hand, see `image`."""
        start, stop = self.index.image[row].tolist()
        height, width, channels = self.index.shape[row].tolist()
        encoding = ENCODINGS[self.index.encoding[row]]
        try:
            pixels = codec.decode_image(
                memoryview(data)[start:stop], encoding, (height, width, channels), self._bit_depth
            )
        except CxrError as error:
            raise self._corrupt(row, str(error)) from error
        return codec.match_channels(pixels, self.channels)

    def facts(self, row: int) -> Record:
        """A record with an empty image; unchecked, since the CRC needs all of it.

        Raises:
          CorruptError: the file has been changed.
          DatasetError: it cannot be read.
        """
        index = self.index
        try:
            file = open_shard(index.paths[index.shard[row]], self._digest)
            return scan_record(file.descriptor, int(index.offset[row]), int(index.length[row]), self._schema)[0]
        except DatasetError as error:
            raise self._corrupt(row, str(error)) from error
        except OSError as error:
            raise DatasetError(f"cannot read the shard {index.paths[index.shard[row]]}: {error.strerror}") from error

    def _corrupt(self, row: int, fault: str) -> CorruptError:
        index = self.index
        frame = int(index.offset[row]) - HEADER_BYTES
        return CorruptError(index.paths[index.shard[row]], int(index.number[row]), frame, fault)

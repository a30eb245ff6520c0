"""Random access to the images of a split: read, CRC, decode."""

from __future__ import annotations

import functools
import os
import weakref
from pathlib import Path

import numpy as np

from cxr.errors import CxrError, DatasetError
from tfrecords.format.framing import check_data
from tfrecords.format.manifest import Manifest
from tfrecords.format.schema import ENCODINGS
from tfrecords.images import codec
from tfrecords.streaming.split_index import SplitIndex

_OPEN_FILES = 256
"""Shards that a process keeps open, all readers together: those read last."""


class _OpenFile:
    """A file descriptor that closes when nobody refers to it any more."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)


@functools.lru_cache(maxsize=_OPEN_FILES)
def open_shard(path: Path, checksum: str) -> _OpenFile:
    """A shard with that BLAKE3; another data set may come to lie under the same path."""
    return _OpenFile(path)


class RecordReader:
    """Reads records of an index by row, from any number of threads.

    It reads with `pread` rather than through a memory map: a file that shrinks is then an error and not a signal
    that kills the process, and the pages read do not count as this process's memory.
    """

    def __init__(self, index: SplitIndex, manifest: Manifest, channels: int):
        """Opens nothing yet.

        Args:
          index: of the split.
          manifest: of the data set.
          channels: of the images returned: 3 repeats grey, 1 turns colour into luma (ITU-R BT.601).
        """
        self.index = index
        self.channels = channels
        self.dtype = np.dtype(np.uint16 if manifest.bit_depth == 16 else np.uint8)
        self._bit_depth = manifest.bit_depth

    def data(self, row: int, check: bool = True) -> bytes:
        """The data of a record.

        Args:
          row: of the index.
          check: compare the data with the CRC that the index holds, so that it is the record that was indexed.

        Raises:
          CorruptError: the CRC does not match, or the file has become shorter.
          DatasetError: the file cannot be read.
        """
        index = self.index
        path, shard = index.paths[index.shard[row]], index.shards[index.shard[row]]
        length = int(index.length[row])
        try:
            file = open_shard(path, shard.blake3)  # held: it closes when nobody refers to it
            data = os.pread(file.descriptor, length, int(index.offset[row]))
        except OSError as error:
            raise DatasetError(f"cannot read the shard {path}: {error.strerror}") from error
        fault = check_data(data, length, int(index.crc[row])) if check or len(data) != length else None
        if fault is not None:
            raise index.corrupt(row, fault)
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
            raise self.index.corrupt(row, str(error)) from error
        return codec.match_channels(pixels, self.channels)

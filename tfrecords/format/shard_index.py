"""The index of a shard: what a reader needs to know of every record before it reads one, in a file beside the shard.

An index file is framed like a shard (see `framing.py`), so every part of it has a CRC. Its frames are:

1. JSON: `shard`, the BLAKE3 of the shard; `records`; `numbers`, the columns of the next frame as NumPy types;
   `texts`, the names of the frames that follow it.
2. The numbers: one packed row for each record. A reader takes columns by name and ignores those that it does not know.
3. One frame for each text column: little-endian uint32 [records], the length of each text in bytes, then the texts in
   UTF-8 one after another. They are read only when they are asked for.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cxr.errors import DatasetError
from tfrecords.format.framing import FOOTER_BYTES, HEADER_BYTES, Place, RecordWriter, check_header, read_frame
from tfrecords.format.manifest import Shard
from tfrecords.format.schema import ENCODINGS, Record

TEXTS = ("patient", "path", "cause", "pixel_hash")
"""The text columns, named like the fields of a `Record`; those of `schema.GROUPS` that a data set has follow."""
UNKNOWN = 2
"""What stands in the column of a label of which it is not known whether an image has it."""
MEND = "copy it again from a whole copy of the data set, or make the data set again: `cxr preprocess ... --overwrite`"


@functools.cache
def number_columns(labels: int | None) -> np.dtype:
    """The numeric columns.

    `offset` and `length` say where the record's data lies in the shard, bytes, and `crc` is the masked CRC32C of it;
    `image` is where in the data the image begins and ends; `encoding` an index into `ENCODINGS`; `shape` height,
    width and channels; `label` an index into the label names, or for each of them 0, 1 or `UNKNOWN`.

    Args:
      labels: number of label names of a multi-label data set, else None.
    """
    label = ("label", "<i4") if labels is None else ("label", "u1", (labels,))
    place = [("offset", "<i8"), ("length", "<i8"), ("crc", "<u4"), ("image", "<i8", (2,))]
    return np.dtype([*place, ("encoding", "u1"), ("shape", "<i4", (3,)), label])


class IndexWriter:
    """Collects what an index says of the records of one shard, in their order.

    Args:
      labels: see `number_columns`.
      groups: those of `schema.GROUPS` that the data set has.
    """

    def __init__(self, labels: int | None, groups: Sequence[str] = ()):
        self._labels, self._columns = labels, number_columns(labels)
        self._rows: list[tuple] = []
        self._texts: dict[str, list[bytes]] = {name: [] for name in (*TEXTS, *groups)}

    def add(self, record: Record, image: tuple[int, int], place: Place) -> None:
        """Adds a record.

        Args:
          record: the record; its image is not looked at.
          image: where in the record's data the image begins and ends, see `RecordSchema.image_span`.
          place: where the data lies in the shard.
        """
        label: Any = record.label
        if self._labels is not None:
            label = tuple(
                UNKNOWN if index in record.unknown else int(index in record.labels) for index in range(self._labels)
            )
        shape = (record.height, record.width, record.channels)
        self._rows.append((*place, image, ENCODINGS.index(record.encoding), shape, label))
        for name, texts in self._texts.items():
            texts.append(getattr(record, name).encode())

    @property
    def numbers(self) -> np.ndarray:
        """The numeric columns, one row for each record."""
        return np.array(self._rows, self._columns)

    @property
    def text_names(self) -> list[str]:
        """Names of the text columns."""
        return list(self._texts)

    def texts(self, name: str) -> list[bytes]:
        """One text column: the UTF-8 bytes of each record's text."""
        return self._texts[name]

    def write(self, file: BinaryIO, shard: str) -> RecordWriter:
        """Writes the index.

        Args:
          file: open for writing.
          shard: BLAKE3 of the whole shard.

        Returns:
          the writer, which knows size and checksum.
        """
        about = {"shard": shard, "records": len(self._rows), "numbers": self._columns.descr}
        about["texts"] = list(self._texts)
        writer = RecordWriter(file)
        writer.write(json.dumps(about).encode())
        writer.write(self.numbers.tobytes())
        for texts in self._texts.values():
            writer.write(np.array([len(text) for text in texts], "<u4").tobytes() + b"".join(texts))
        return writer


def read_numbers(path: Path, shard: Shard, labels: int | None) -> np.ndarray:
    """The numeric columns of an index: one row for each record, with the fields of `number_columns`, if not more.

    Args:
      path: the index file.
      shard: what the manifest says of the shard and its index.
      labels: see `number_columns`.

    Raises:
      DatasetError: the index is missing, damaged, or that of another shard; the message names file and byte.
    """
    about, data = _read(path, shard)
    try:
        rows = np.frombuffer(data, [(name, kind, *map(tuple, shape)) for name, kind, *shape in about["numbers"]])
        wanted = number_columns(labels)
        other = [name for name in wanted.names or () if rows.dtype[name] != wanted[name]]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"its columns cannot be read: {error}") from error
    if other or len(rows) != shard.records:
        raise _damaged(path, f"{len(rows)} rows of {rows.dtype}; expected {shard.records} of {wanted}")
    return rows


class TextColumn(Sequence[bytes]):
    """One text column of an index, each text cut out when it is asked for.

    Args:
      lengths: of the texts, bytes.
      data: the texts one after another, UTF-8.
    """

    def __init__(self, lengths: np.ndarray, data: bytes):
        self._ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._data = data
        if self._ends[-1] != len(data):
            raise ValueError(f"texts of {self._ends[-1]} bytes in {len(data)}")

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row):
        return self._data[self._ends[row] : self._ends[row + 1]]


def read_texts(path: Path, shard: Shard, name: str) -> TextColumn:
    """One of the text columns of an index.

    Raises:
      DatasetError: as for `read_numbers`.
    """
    try:
        _, data = _read(path, shard, name)
        return TextColumn(np.frombuffer(data, "<u4", shard.records), data[4 * shard.records :])
    except ValueError as error:
        raise _damaged(path, f"column '{name}': {error}") from error


def _read(path: Path, shard: Shard, text: str | None = None) -> tuple[dict[str, Any], bytes]:
    """(first frame, the frame of the numbers or of a text column)."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != shard.index_bytes:
                raise _damaged(path, f"it has {size} bytes; the manifest says {shard.index_bytes}")
            about = json.loads(_read_frame(path, file, size))
            if (about["shard"], about["records"]) != (shard.blake3, shard.records):
                raise _damaged(path, "it is the index of another shard")
            for _ in range(0 if text is None else 1 + about["texts"].index(text)):
                start = file.tell()
                fault, length = check_header(file.read(HEADER_BYTES), size - start)
                if fault is not None:
                    raise _damaged(path, f"byte {start}: {fault}")
                file.seek(length + FOOTER_BYTES, os.SEEK_CUR)
            return about, _read_frame(path, file, size)
    except OSError as error:
        raise DatasetError(f"cannot read the index {path}: {error.strerror}; {MEND}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"its first frame is no description of an index: {error!r}") from error


def _read_frame(path: Path, file: BinaryIO, size: int) -> bytes:
    start = file.tell()
    fault, _, data = read_frame(file, size - start)
    if fault is not None:
        raise _damaged(path, f"byte {start}: {fault}")
    return data


def _damaged(path: Path, fault: str) -> DatasetError:
    return DatasetError(f"{path}: the index of the shard is damaged: {fault}; {MEND}")

"""Every error that this project raises on purpose.

    CxrError
    |-- InputError          the source, a table or an option cannot be used
    |   `-- UsageError      the command line cannot be understood; exit status 2
    |-- ImageError          one image cannot be used; the Beam job turns it into a reject
    |-- OutputError         the place to write to cannot be used (foreign, locked, full, read-only)
    |   `-- BusyError       another process is at it
    |-- DatasetError        a directory is not a data set that this version can read
    |   `-- CorruptError    bytes in a shard are not what was written; names file, record and offset
    |-- TrainingError       training cannot go on: the loss is not finite, or memory does not suffice
    `-- MissingExtraError   an optional dependency is not installed; names the extra

The command line prints the message and exits 1 for each of these but UsageError; anything else is a bug and
shows its traceback.
"""

from __future__ import annotations


class CxrError(Exception):
    """Base of all errors below. The message is written for the person at the terminal."""


class InputError(CxrError):
    """The source, a table or an option cannot be used."""


class UsageError(InputError):
    """The command line cannot be understood: an option is unknown, missing, or not what it may be."""


class ImageError(CxrError):
    """One image cannot be used: empty, truncated, of an unknown format, too large."""


class OutputError(CxrError):
    """The output directory cannot be used: it holds something else, is locked, full or read-only."""


class BusyError(OutputError):
    """Another process is at it; it may be free later."""


class DatasetError(CxrError):
    """A directory is not a data set, or one of a schema version that cannot be read."""


class CorruptError(DatasetError):
    """Bytes in a shard are not what was written.

    Attributes:
      path: the shard file.
      record: index of the faulty record in the shard, from 0.
      offset: byte offset in the file at which that record begins.
    """

    def __init__(self, path: object, record: int, offset: int, fault: str):
        super().__init__(f"{path}: record {record} at byte {offset}: {fault}")
        self.path = str(path)
        self.record = record
        self.offset = offset
        self.fault = fault

    def __reduce__(self):
        return type(self), (self.path, self.record, self.offset, self.fault)


class TrainingError(CxrError):
    """Training cannot go on: the loss is not finite, or memory does not suffice."""


class MissingExtraError(CxrError):
    """An optional dependency is not installed."""

    def __init__(self, purpose: str, package: str, extra: str):
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed. "
            f"Install it with: pip install 'cxr-stream[{extra}]', or in a checkout: pip install '.[{extra}]'"
        )
        self._args = (purpose, package, extra)

    def __reduce__(self):
        return type(self), self._args

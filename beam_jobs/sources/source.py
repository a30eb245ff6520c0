"""Where images come from: folders, a zip, or a table. (`tfds_source.py` makes a zip of a TFDS data set.)

A source lists its images (`SourceImage`: a path and what the source says about it) and reads one image's
bytes by that path. It is small, frozen and picklable, so that every worker holds one.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import functools
import lzma
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import ClassVar

from cxr.errors import ImageError, InputError
from tfrecords.images.file_lists import DOCUMENT_SUFFIXES, TABLE_SUFFIXES, is_ignored, read_table, walk_files

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Folder and table names that mean a split, in lower case, and the name it gets in the data set."""

_DAMAGED_MEMBER = (
    zipfile.BadZipFile,  # a wrong CRC among others
    zlib.error,
    lzma.LZMAError,
    RuntimeError,  # encrypted; NotImplementedError, an unknown compression, is one
    EOFError,
    ValueError,
    OverflowError,
    struct.error,
)
"""What `zipfile` raises for a member that no further attempt can read."""
_REQUIRED_COLUMNS = ("path", "label")
_OPTIONAL_COLUMNS = ("patient", "split", "cause")
_MAX_NAMED = 5
_MAX_SHOWN = 500


@dataclasses.dataclass(frozen=True)
class SourceImage:
    """One image as the source names it.

    Attributes:
      path: relative to the source, with forward slashes; unique in the source.
      bytes: size of the file.
      modified: stamp that a change of the file changes: its modification time in nanoseconds, or in a zip the
        CRC-32 of the member.
      labels: class names; exactly one, except in a multi-label table.
      split: `train`, `val`, `test`, or another name a table gives; None where the source has no splits.
      patient: patient key, where the source states it.
      cause: cause of the finding, where the source states it.
    """

    path: str
    bytes: int
    modified: int
    labels: tuple[str, ...]
    split: str | None = None
    patient: str | None = None
    cause: str | None = None


@dataclasses.dataclass(frozen=True)
class _Files:
    """Files below a directory, `root`."""

    root: str

    def read(self, path: str, limit: int = -1) -> bytes:
        """The bytes of one file, at most `limit` of them where that is not negative.

        Raises:
          InputError: it cannot be read, which says nothing about the image.
        """
        full = Path(self.root, path)
        try:
            with open(full, "rb") as file:
                return file.read(limit)
        except OSError as error:
            raise _unreadable(full, error.strerror) from error


class FolderSource(_Files):
    """`split/class/*` or `class/*` below a directory; a single folder that holds all is looked through."""

    kind: ClassVar[str] = "folder"

    def list(self) -> Iterator[SourceImage]:
        """Yields every file below the class folders, in no particular order."""
        entries = {path: (size, modified) for path, size, modified in walk_files(self.root)}
        for path, split, label in _read_layout(entries, self.root):
            size, modified = entries[path]
            yield SourceImage(path, size, modified, (label,), split)


@dataclasses.dataclass(frozen=True)
class ZipSource:
    """The same layouts inside a zip file, read without unpacking it."""

    kind: ClassVar[str] = "zip"
    root: str

    def list(self) -> Iterator[SourceImage]:
        """Yields every member below the class folders, in no particular order."""
        members = _open_zip(self.root).infolist()
        climbing = [member.filename for member in members if _climbs(member.filename)]
        if climbing:
            raise InputError(f"{self.root} has members whose path climbs out of the archive: {_name_some(climbing)}")
        files = [member for member in members if not member.is_dir() and not is_ignored(member.filename)]
        entries = {member.filename: (member.file_size, member.CRC) for member in files}
        if len(entries) < len(files):
            counts = collections.Counter(member.filename for member in files)
            repeated = sorted(name for name, count in counts.items() if count > 1)
            raise InputError(f"{self.root} has several members of one name: {_name_some(repeated)}")
        for path, split, label in _read_layout(entries, self.root):
            size, checksum = entries[path]
            yield SourceImage(path, size, checksum, (label,), split)

    def read(self, path: str, limit: int = -1) -> bytes:
        """The bytes of one member, at most `limit` where that is not negative; the CRC of a whole one is checked.

        Raises:
          ImageError: it is damaged, encrypted, or compressed in a way that is not supported.
          InputError: the zip cannot be read or has no such member, which says nothing about the image.
        """
        archive = _open_zip(self.root)
        try:
            with archive.open(path) as member:
                return member.read(limit)
        except _DAMAGED_MEMBER as error:
            raise ImageError(f"cannot be read from the zip: {error}") from error
        except KeyError as error:
            raise _unreadable(f"{path} in {self.root}", "the zip has no such member") from error
        except OSError as error:
            if error.errno in (None, errno.EINVAL):  # bz2 has an OSError of its own; EINVAL: an impossible offset
                raise ImageError(f"cannot be read from the zip: {error}") from error
            raise _unreadable(f"{path} in {self.root}", error.strerror) from error


@dataclasses.dataclass(frozen=True)
class TableSource(_Files):
    """A CSV, TSV or JSON-lines table with `path,label` and optionally `patient,split,cause`.

    Attributes:
      root: directory that the paths are relative to, and that none may leave.
      table: the table file.
    """

    kind: ClassVar[str] = "table"
    table: str

    def list(self) -> Iterator[SourceImage]:
        """Yields one image a row, in the order of the table."""
        seen: dict[str, int] = {}
        missing: list[str] = []
        root = os.path.realpath(self.root)
        for line, row in read_table(self.table, _REQUIRED_COLUMNS, _OPTIONAL_COLUMNS):
            path, label = row.get("path") or "", row.get("label")
            where = f"{self.table}, line {line}"
            if not path:
                raise InputError(f"{where}: the path is empty")
            if label is None:
                raise InputError(f"{where}: there is no label")
            path = os.path.normpath(path)
            try:
                full = os.path.realpath(os.path.join(root, path))  # noqa: PTH118
            except ValueError as error:  # a NUL, or half a surrogate pair from JSON
                raise InputError(f"{where}: {path!r} is not a path: {error}") from error
            if os.path.commonpath([root, full]) != root:
                raise InputError(
                    f"{where}: the path {path!r} climbs out of {self.root}. "
                    "Give --images-root a directory that holds all images."
                )
            path = (Path(full).relative_to(root) if Path(path).is_absolute() else Path(path)).as_posix()
            if path in seen:
                raise InputError(
                    f"{where}: {path} stands in line {seen[path]} already. "
                    "Give an image one row; several labels go into one cell, separated by '|'."
                )
            seen[path] = line
            try:
                status = Path(full).stat()
            except OSError:
                status = None
            if status is None or not stat.S_ISREG(status.st_mode):
                missing.append(f"{path} (line {line})")
                continue
            labels = tuple(dict.fromkeys(part.strip() for part in label.split("|") if part.strip()))
            patient, split, cause = ((row.get(name) or "").strip() or None for name in _OPTIONAL_COLUMNS)
            split, cause = split and SPLIT_NAMES.get(split.lower(), split), cause and cause.lower()
            yield SourceImage(path, status.st_size, status.st_mtime_ns, labels, split, patient, cause)
        if missing:
            raise InputError(f"{self.table} names {len(missing)} files that do not exist: {_name_some(missing)}")


Source = FolderSource | ZipSource | TableSource


def open_source(location: str, images_root: str | None = None) -> Source:
    """The source that a command line names: a directory, a zip, or a table.

    `tfds:NAME` is turned into a zip first, see `tfds_source.materialize_tfds`.

    Args:
      location: path of it.
      images_root: for a table, the directory its paths are relative to; its own directory by default.

    Returns:
      A source whose paths are absolute, for workers may run in another directory.

    Raises:
      InputError: there is nothing there, or nothing of these, or nothing that has an `images_root`.
    """
    path = Path(os.path.abspath(location))  # noqa: PTH100
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except OSError as error:
        raise InputError(f"cannot read the input {_shorten(location)}: {error.strerror}") from error
    if not exists:
        expected = "expected a folder, a .zip or a .csv/.tsv/.jsonl table"
        raise InputError(f"the input {_shorten(location)} does not exist; {expected}")
    if not is_folder and path.suffix.lower() in TABLE_SUFFIXES:
        root = os.path.abspath(images_root) if images_root else os.fspath(path.parent)  # noqa: PTH100
        return TableSource(root, os.fspath(path))
    if images_root:
        raise InputError(
            f"--images-root {images_root}: only a table ({', '.join(TABLE_SUFFIXES)}) has paths to look for there; "
            f"the input {location} is {'a folder' if is_folder else 'none'}"
        )
    if is_folder:
        return FolderSource(os.fspath(path))
    if zipfile.is_zipfile(path):
        return ZipSource(os.fspath(path))
    raise InputError(
        f"the input {location} is neither a folder, nor a zip file, nor a table ending in "
        f"{', '.join(TABLE_SUFFIXES)}. If it is a zip, it is damaged: download it again."
    )


def _read_layout(paths: dict, root: str) -> Iterator[tuple[str, str | None, str]]:
    """Yields (path, split or None, class) for each path of a `split/class/*` or `class/*` tree.

    Documents (`DOCUMENT_SUFFIXES`) outside the class folders are left out and have no part in what the tree is
    taken for.
    """
    if not paths:
        raise InputError(f"the input {root} is empty; expected split/class/image or class/image files")
    documents = [path for path in paths if path.lower().endswith(DOCUMENT_SUFFIXES)]
    images = [path for path in paths if not path.lower().endswith(DOCUMENT_SUFFIXES)] or documents
    depth = _common_depth(images)
    parts = {path: path.split("/")[depth:] for path in images}
    tops = {names[0] for names in parts.values()}
    has_splits = all(top.lower() in SPLIT_NAMES for top in tops)
    if not has_splits and any(top.lower() in SPLIT_NAMES for top in tops):
        others = sorted(top for top in tops if top.lower() not in SPLIT_NAMES)
        raise InputError(f"{root} has split folders beside {_name_some(others)}; expected only splits, or only classes")
    need = 3 if has_splits else 2
    stray = sorted(path for path, names in parts.items() if len(names) < need)
    if stray:
        raise InputError(
            f"{root}: expected {'split/class/image' if has_splits else 'class/image or split/class/image'} files, "
            f"received {_name_some(stray)}, which {'lies' if len(stray) == 1 else 'lie'} in no class folder"
        )
    shared = images[0].split("/")[:depth]
    for path in documents:
        names = path.split("/")
        within = names[:depth] == shared and len(names) >= depth + need
        if within and not (has_splits and names[depth].lower() not in SPLIT_NAMES):
            parts[path] = names[depth:]
    for path, names in parts.items():
        split = SPLIT_NAMES[names[0].lower()] if has_splits else None
        yield path, split, names[need - 2]


def _common_depth(paths: Collection[str]) -> int:
    """How many leading folders all paths share, unless they are a split or the only class."""
    folders = [path.split("/")[:-1] for path in paths]
    depth = 0
    while all(len(names) > depth + 1 for names in folders):
        tops = {names[depth] for names in folders}
        if len(tops) > 1 or next(iter(tops)).lower() in SPLIT_NAMES:
            break
        depth += 1
    return depth


def _climbs(path: str) -> bool:
    parts = re.split(r"[/\\]", path)
    return ".." in parts or path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", path) is not None


def _name_some(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def _unreadable(what: object, reason: str | None) -> InputError:
    """The error for bytes that cannot be had now; unlike damaged ones they do not reject an image for good."""
    return InputError(f"cannot read {what}: {reason}. Run the same command again once it can be read")


def _shorten(location: str) -> str:
    return location if len(location) <= _MAX_SHOWN else f"{location[:_MAX_SHOWN]}..."


@functools.lru_cache(maxsize=2)
def _open_zip(path: str) -> zipfile.ZipFile:
    """The archive, opened once a process; `zipfile` locks its file object, so threads may share it."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"cannot open the zip {path}: {error}") from error

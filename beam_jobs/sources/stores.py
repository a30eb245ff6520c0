"""Where the files of an input lie: in a folder, in a zip or tar, or in archives that lie in these.

A store lists its files by path, with forward slashes, and reads any of them. It is small, frozen and picklable, so that
every worker holds one. A file of an archive that lies in a folder has the path `ARCHIVE/MEMBER`.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import functools
import io
import lzma
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from cxr.errors import ImageError, InputError
from cxr.tables import TABLE_SUFFIXES, is_table
from tfrecords.images.file_lists import is_ignored, walk_files

_Member = TypeVar("_Member", zipfile.ZipInfo, tarfile.TarInfo)
ZIP_SUFFIX, TAR_SUFFIX = ".zip", ".tar"
PACKED_TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""Archives that can be read from front to end only."""
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
_LOCAL_HEADER = struct.Struct("<26xHH")
"""Of a member of a zip (APPNOTE.TXT 4.3.7): what matters here is how long the name and the extra field are."""
_MAX_NAMED = 5
_MAX_SHOWN = 500


class Entry(NamedTuple):
    """What a store says of a file: its size in bytes, and a stamp that a change of its content changes."""

    bytes: int
    modified: int


@dataclasses.dataclass(frozen=True)
class Folder:
    """The files below a directory, and those of the zips and tars among them."""

    kind: ClassVar[str] = "folder"
    root: str

    def entries(self) -> dict[str, Entry]:
        """All files that are not ignored, see `file_lists.is_ignored`.

        Raises:
          InputError: a folder or an archive cannot be read.
        """
        found: dict[str, Entry] = {}
        for path, size, modified in walk_files(self.root):
            if is_archive(path):
                inner = open_archive(os.path.join(self.root, path)).entries()  # noqa: PTH118
                found |= {f"{path}/{name}": entry for name, entry in inner.items()}
            else:
                _refuse_packed(os.path.join(self.root, path))  # noqa: PTH118
                found[path] = Entry(size, modified)
        return found

    def read(self, path: str, limit: int = -1) -> bytes:
        """The bytes of one file, at most `limit` of them where that is not negative.

        Raises:
          ImageError: it is damaged in its archive.
          InputError: it cannot be read, which says nothing about the image.
        """
        archive = _archive_of(path)
        if archive and Path(self.root, archive).is_file():
            return open_archive(os.path.join(self.root, archive)).read(path[len(archive) + 1 :], limit)  # noqa: PTH118
        try:
            with open(Path(self.root, path), "rb") as file:
                return file.read(limit)
        except OSError as error:
            raise unreadable(Path(self.root, path), error.strerror) from error


@dataclasses.dataclass(frozen=True)
class Zip:
    """The members of a zip, read without unpacking it, and those of zips that lie in it uncompressed."""

    kind: ClassVar[str] = "zip"
    root: str

    def entries(self) -> dict[str, Entry]:
        """All members that are no folders and not ignored; see `Folder.entries`."""
        return {path: entry for path, (entry, _, _) in _zip_members(self.root).items()}

    def read(self, path: str, limit: int = -1) -> bytes:
        """The bytes of one member, at most `limit` where that is not negative; the CRC of a whole one is checked.

        Raises:
          ImageError: it is damaged, encrypted, or compressed in a way that is not supported.
          InputError: the zip cannot be read or has no such member, which says nothing about the image.
        """
        found = _zip_members(self.root).get(path)
        if found is None:
            raise unreadable(f"{path} in {self.root}", "the zip has no such member")
        _, archive, member = found
        try:
            with archive.open(member) as file:
                return file.read(limit)
        except _DAMAGED_MEMBER as error:
            raise ImageError(f"cannot be read from the zip: {error}") from error
        except OSError as error:
            if error.errno in (None, errno.EINVAL):  # bz2 has an OSError of its own; EINVAL: an impossible offset
                raise ImageError(f"cannot be read from the zip: {error}") from error
            raise unreadable(f"{path} in {self.root}", error.strerror) from error


@dataclasses.dataclass(frozen=True)
class Tar:
    """The members of an uncompressed tar."""

    kind: ClassVar[str] = "tar"
    root: str

    def entries(self) -> dict[str, Entry]:
        """All members that are regular files and not ignored; see `Folder.entries`."""
        return {path: entry for path, (entry, _) in _tar_members(self.root).items()}

    def read(self, path: str, limit: int = -1) -> bytes:
        """See `Folder.read`."""
        found = _tar_members(self.root).get(path)
        if found is None:
            raise unreadable(f"{path} in {self.root}", "the tar has no such member")
        entry, offset = found
        try:
            with open(self.root, "rb") as file:
                file.seek(offset)
                data = file.read(entry.bytes if limit < 0 else min(limit, entry.bytes))
        except OSError as error:
            raise unreadable(f"{path} in {self.root}", error.strerror) from error
        if len(data) < entry.bytes and len(data) != limit:
            raise ImageError("cannot be read from the tar: it is cut off")
        return data


Store = Folder | Zip | Tar


def is_archive(path: str) -> bool:
    """Whether a file is an archive whose members can be read each by itself, by its name."""
    return path.lower().endswith((ZIP_SUFFIX, TAR_SUFFIX)) and not is_table(path)


def open_store(location: str) -> Store:
    """The store that a command line names: a directory, a zip or a tar.

    Args:
      location: path of it.

    Returns:
      A store whose path is absolute, for workers may run in another directory.

    Raises:
      InputError: there is nothing there, or nothing of these.
    """
    path = Path(os.path.abspath(location))  # noqa: PTH100
    shown = location if len(location) <= _MAX_SHOWN else f"{location[:_MAX_SHOWN]}..."
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except OSError as error:
        raise InputError(f"cannot read the input {shown}: {error.strerror}") from error
    if not exists:
        raise InputError(f"the input {shown} does not exist; expected a folder, a .zip, a .tar or a table")
    if is_folder:
        return Folder(os.fspath(path))
    _refuse_packed(os.fspath(path))
    if zipfile.is_zipfile(path):
        return Zip(os.fspath(path))
    if tarfile.is_tarfile(path):
        return Tar(os.fspath(path))
    raise InputError(
        f"the input {shown} is neither a folder, nor a zip or tar file, nor a table ending in "
        f"{', '.join(TABLE_SUFFIXES)}. If it is a zip, it is damaged: download it again."
    )


def open_archive(path: str) -> Zip | Tar:
    """The store of a zip or tar, by the ending of its name."""
    return Tar(path) if path.lower().endswith(TAR_SUFFIX) else Zip(path)


def _refuse_packed(path: str) -> None:
    """Refuses an archive that can be read from front to end only."""
    if path.lower().endswith(PACKED_TAR_SUFFIXES):
        raise InputError(
            f"{path} is compressed as a whole, so its files cannot be read one by one; expected a .tar, a .zip or a "
            f"folder. Unpack it once: tar -xf {Path(path).name}"
        )


def unreadable(what: object, reason: str | None) -> InputError:
    """The error for bytes that cannot be had now; unlike damaged ones they do not reject an image for good."""
    return InputError(f"cannot read {what}: {reason}. Run the same command again once it can be read")


def name_some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def _archive_of(path: str) -> str | None:
    """The first part of a path that ends like an archive, with the folders before it."""
    parts = path.split("/")
    for end in range(1, len(parts)):
        if is_archive(parts[end - 1]):
            return "/".join(parts[:end])
    return None


def _checked_members(root: str, members: Iterable[tuple[str, _Member]]) -> list[tuple[str, _Member]]:
    """The members of an archive, by path, that are not ignored.

    Raises:
      InputError: one would lie outside of the archive's folder, or a name is there twice.
    """
    members = list(members)
    climbing = [path for path, _ in members if _climbs(path)]
    if climbing:
        raise InputError(f"{root} has members whose path climbs out of the archive: {name_some(climbing)}")
    members = [(path, member) for path, member in members if not path.endswith("/") and not is_ignored(path)]
    counts = collections.Counter(path for path, _ in members)
    repeated = sorted(path for path, count in counts.items() if count > 1)
    if repeated:
        raise InputError(f"{root} has several members of one name: {name_some(repeated)}")
    return members


def _climbs(path: str) -> bool:
    parts = re.split(r"[/\\]", path)
    return ".." in parts or path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", path) is not None


@functools.lru_cache(maxsize=64)
def _zip_members(root: str) -> Mapping[str, tuple[Entry, zipfile.ZipFile, zipfile.ZipInfo]]:
    """The members of a zip by path, each with the archive that it is in; read once in a process.

    Python's `zipfile` locks the file object of an archive, so threads may share it.
    """
    try:
        archive = zipfile.ZipFile(root)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"cannot open the zip {root}: {error}") from error
    return _members_of(root, archive)


def _members_of(root: str, archive: zipfile.ZipFile) -> dict[str, tuple[Entry, zipfile.ZipFile, zipfile.ZipInfo]]:
    found = {}
    members = [(_slashed(member), member) for member in archive.infolist() if not member.is_dir()]
    members = _checked_members(root, members)
    for path, member in members:
        if path.lower().endswith(ZIP_SUFFIX) and is_archive(path):
            for name, inner in _members_of(f"{root}/{path}", _inner_zip(root, path, archive, member)).items():
                found[f"{path}/{name}"] = inner
        else:
            found[path] = Entry(member.file_size, member.CRC), archive, member
    return found


def _slashed(member: zipfile.ZipInfo) -> str:
    r"""The path of a member. Some programs of Windows write `a\b.png` into zips, against the format's standard."""
    name = member.filename
    return name if "/" in name or _climbs(name) else name.replace("\\", "/")


class _Part(io.RawIOBase):
    """A part of a file as a file: a stored member of a zip, which `zipfile` would read from its start at each seek."""

    def __init__(self, descriptor: int, start: int, size: int):
        self.descriptor, self.start, self.size = descriptor, start, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self.descriptor, max(0, min(len(buffer), self.size - self._at)), self.start + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _inner_zip(root: str, path: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> zipfile.ZipFile:
    """A zip in a zip."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise InputError(
            f"{root} holds the compressed zip {path}, whose members cannot be read one by one; unpack {root} once"
        )
    outer: Any = archive.fp
    descriptor, start = (outer.descriptor, outer.start) if isinstance(outer, _Part) else (outer.fileno(), 0)
    try:
        header = os.pread(descriptor, _LOCAL_HEADER.size, start + member.header_offset)
        name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)[-2:]
        begin = start + member.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
        return zipfile.ZipFile(_Part(descriptor, begin, member.file_size))
    except (*_DAMAGED_MEMBER, OSError) as error:
        raise InputError(f"cannot open the zip {path} in {root}: {error}") from error


@functools.lru_cache(maxsize=64)
def _tar_members(root: str) -> Mapping[str, tuple[Entry, int]]:
    """(entry, offset of its bytes) of the members of a tar by path, read once in a process."""
    try:
        with tarfile.open(root, "r:") as archive:
            members = [member for member in archive if member.isreg()]
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"cannot open the tar {root}: {error}") from error
    named = _checked_members(root, [(member.name.removeprefix("./"), member) for member in members])
    return {path: (Entry(member.size, int(member.mtime * 1e9)), member.offset_data) for path, member in named}

"""Files: written whole or not at all, held by one process at a time, and read as JSON.

Every file that must not be seen half-written is written under a temporary name in the same folder, synced to the disk
and renamed. The temporary name holds random digits, so that two processes, on two hosts as well, never share one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from cxr.errors import BusyError, DatasetError, OutputError

_TEMPORARY = ".tmp-"


def temporary_name(path: Path, ending: str = ".tmp") -> Path:
    """A hidden name beside `path` that nobody else has."""
    return path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex[:12]}-{path.name}{ending}")


def is_temporary(name: str) -> bool:
    """Whether a file name is one that `temporary_name` gives."""
    return name.startswith(_TEMPORARY)


def remove_temporary(folder: Path) -> None:
    """Removes what processes that were killed have left in a folder and below it."""
    for parent, _, names in os.walk(folder):
        for name in filter(is_temporary, names):
            Path(parent, name).unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path, ending: str = ".tmp") -> Iterator[Path]:
    """Yields a temporary name to write a file or folder to; it becomes `path` where the block ends without an error.

    A reader sees the old content or the new, never a part. What is left of the temporary one is removed.

    Args:
      path: final name.
      ending: of the temporary name; nothing where a library goes by the ending of `path`.

    Raises:
      OSError: it cannot be synced or renamed.
    """
    temporary = temporary_name(path, ending)
    try:
        yield temporary
        sync(temporary)
        if path.is_dir() and temporary.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file, or every file of a folder, is on the disk."""
    for file in [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]:
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())


@contextlib.contextmanager
def open_replacing(path: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Opens a file that appears, or replaces the one there, when all of it is written.

    Args:
      path: its final name.
      mode: `w` or `wb`.
      options: of `open`.
    """
    with replacing(path) as temporary, open(temporary, mode, **options) as file:
        yield file
        file.flush()


def write_atomically(path: Path, content: str) -> None:
    """Writes a small text file, UTF-8 with `\\n`, whole or not at all."""
    with open_replacing(path, encoding="utf-8", newline="\n") as file:
        file.write(content)


def write_json(path: Path, fields: Any, indent: int | None = 2) -> None:
    """Writes a value as JSON, whole or not at all."""
    write_atomically(path, json.dumps(fields, indent=indent) + "\n")


def read_json(path: Path, missing: str = "") -> dict[str, Any]:
    """Reads a JSON object.

    Args:
      path: of the file.
      missing: message where there is no such file; otherwise that it cannot be read.

    Raises:
      DatasetError: the file is missing, cannot be read or holds something else.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatasetError(missing or f"{path} cannot be read: there is no such file") from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    if not isinstance(fields, Mapping):
        raise DatasetError(f"{path} is damaged: expected a JSON object, received {type(fields).__name__}")
    return dict(fields)


@contextlib.contextmanager
def locked(path: Path, busy: str, wait: bool = False) -> Iterator[None]:
    """Holds the lock file `path` for this process; the lock ends with the process, however that ends.

    Args:
      path: of the file, made where it does not exist; its folder too.
      busy: message where another process holds it.
      wait: wait for it instead.

    Raises:
      BusyError: another process holds it.
      OutputError: the file cannot be made or locked.
    """
    file = _lock_file(path, busy, wait)
    with file:
        yield


def _lock_file(path: Path, busy: str, wait: bool) -> IO[str]:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by the caller
        except OSError as error:
            raise OutputError(f"cannot write to {path.parent}: {error.strerror or error}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_same(file, path):
                return file
            file.close()  # its last holder has removed it: lock the one that is there now
        except BlockingIOError as error:
            file.close()
            raise BusyError(busy) from error
        except OSError as error:
            file.close()
            raise OutputError(f"cannot lock {path}: {error.strerror or error}") from error


def _is_same(file: IO[str], path: Path) -> bool:
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False

"""Which files a folder holds: images, documents, and what operating systems leave about."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from pathlib import Path

from cxr.errors import InputError

IGNORED_NAMES = {"thumbs.db", "desktop.ini", "__macosx"}
"""Files and folders that operating systems leave about; names that begin with a dot are ignored too."""

DOCUMENT_SUFFIXES = (
    ".txt", ".md", ".rst", ".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson", ".parquet", ".xlsx", ".xls", ".ods",
    ".pdf", ".html", ".htm", ".xml", ".yaml", ".yml", ".toml", ".doc", ".docx", ".odt", ".rtf", ".log", ".py", ".ipynb",
    ".sh", ".md5", ".sha256", ".csv.gz", ".tsv.gz", ".json.gz", ".jsonl.gz", ".txt.gz", ".csv.zip", ".tsv.zip",
)  # fmt: skip
"""Ends, in lower case, of the names of documents."""

DOCUMENT_NAMES = {"license", "licence", "readme", "changelog", "copying", "notice", "sha256sums", "md5sums", "records"}
"""Names of documents without an ending, in lower case."""


def is_ignored(path: str) -> bool:
    """Whether a path has a part that begins with a dot or is one of `IGNORED_NAMES`."""
    return any(name.startswith(".") or name.lower() in IGNORED_NAMES for name in path.split("/"))


def is_document(path: str) -> bool:
    """Whether a file is a document by its name."""
    lower = path.lower()
    return lower.endswith(DOCUMENT_SUFFIXES) or posixpath.basename(lower) in DOCUMENT_NAMES


def is_utf8(name: str) -> bool:
    """Whether a name of the file system is text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def walk_files(root: str) -> Iterator[tuple[str, int, int]]:
    """Yields (relative path, bytes, modification time in nanoseconds) of every file below a directory, in no
    particular order. Ignored names are left out; symbolic links are followed.

    Raises:
      InputError: a folder cannot be read, a link leads back, a name is not UTF-8, something is no file.
    """
    stack: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while stack:
        folder, above = stack.pop()
        try:
            place = Path(root, folder).stat()
            here = (place.st_dev, place.st_ino)
            if here in above:  # else every link would be followed on every way that leads to it
                raise InputError(
                    f"{Path(root, folder)} leads back to a folder that it lies in, through symbolic links; "
                    "remove the link from the input"
                )
            with os.scandir(os.path.join(root, folder)) as entries:  # noqa: PTH118
                for entry in entries:
                    path = posixpath.join(folder, entry.name)
                    if is_ignored(entry.name):
                        continue
                    if not is_utf8(entry.name):
                        raise InputError(f"the name of {os.fsencode(entry.path)!r} is not UTF-8 text; rename it")
                    if entry.is_dir():
                        stack.append((path, (*above, here)))
                    else:
                        status = entry.stat()
                        if not stat.S_ISREG(status.st_mode):
                            raise InputError(f"{entry.path} is neither a file nor a folder; remove it from the input")
                        yield path, status.st_size, status.st_mtime_ns
        except OSError as error:
            raise InputError(f"cannot read {error.filename or folder}: {error.strerror}") from error

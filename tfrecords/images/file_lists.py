"""Which files a folder or a table names: what operating systems leave about, documents, rows of a table."""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from cxr.errors import InputError

IGNORED_NAMES = {"thumbs.db", "desktop.ini", "__macosx"}
"""Files and folders that operating systems leave about; names that begin with a dot are ignored too."""

DOCUMENT_SUFFIXES = (
    ".txt", ".md", ".csv", ".tsv", ".json", ".pdf", ".html", ".xlsx", ".xls", ".docx",
)  # fmt: skip
"""Ends, in lower case, of the names of documents."""

TABLE_SUFFIXES = {".csv": ",", ".tsv": "\t", ".jsonl": None, ".ndjson": None}
"""Ends of the names of tables, and what separates their columns; None is JSON lines."""


def is_ignored(path: str) -> bool:
    """Whether a path has a part that begins with a dot or is one of `IGNORED_NAMES`."""
    return any(name.startswith(".") or name.lower() in IGNORED_NAMES for name in path.split("/"))


def is_document(path: str) -> bool:
    """Whether a file is a document by its name."""
    return path.lower().endswith(DOCUMENT_SUFFIXES)


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


def read_table(
    table: str, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (line number, row) of a CSV, TSV or JSON-lines table, with column names in lower case.

    Args:
      table: its file; the end of the name, one of `TABLE_SUFFIXES`, says what it is.
      required: columns that a CSV or TSV must have. A row of JSON lines may lack them.
      optional: columns besides; a JSON row has these and the required ones, as text.

    Raises:
      InputError: the file cannot be read or is no such table; names the line.
    """
    delimiter = TABLE_SUFFIXES[Path(table).suffix.lower()]
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            if delimiter:
                yield from _csv_rows(file, table, delimiter, required, optional)
            else:
                yield from _json_rows(file, table, required, optional)
    except UnicodeDecodeError as error:
        raise InputError(f"{table} is not UTF-8 text: {error}") from error
    except csv.Error as error:
        raise InputError(f"{table} is not a valid table: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {table}: {error.strerror}") from error


def _csv_rows(
    file: io.TextIOBase, table: str, delimiter: str, required: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(file, delimiter=delimiter, strict=True)  # else an open quote swallows the rows below it
    columns = {name: (name or "").strip().lower() for name in reader.fieldnames or ()}
    absent = set(required) - set(columns.values())
    if absent:
        wanted = f"{'s' if len(required) > 1 else ''} {','.join(required)}"
        besides = f" and optionally {','.join(optional)}" if optional else ""
        raise InputError(
            f"{table}: the column{'s' if len(absent) > 1 else ''} {' and '.join(sorted(absent))} "
            f"{'are' if len(absent) > 1 else 'is'} missing; the first line must name the column{wanted}{besides}; "
            f"received {', '.join(columns) or 'an empty file'}"
        )
    names = [name.strip().lower() for name in reader.fieldnames or ()]
    repeated = sorted({name for name in names if name in (*required, *optional) and names.count(name) > 1})
    if repeated:
        raise InputError(f"{table}: the column {repeated[0]} stands {names.count(repeated[0])} times in the first line")
    for row in reader:
        if None in row or None in row.values():
            raise InputError(f"{table}, line {reader.line_num}: expected {len(columns)} cells, as in the first line")
        yield reader.line_num, {columns[name]: value for name, value in row.items()}


def _json_rows(
    file: io.TextIOBase, table: str, required: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{table}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(
                f"{table}, line {number}: expected an object with {' and '.join(required)}, received {line:.60}"
            )
        row = {key.strip().lower(): value for key, value in row.items()}
        for key, value in row.items():
            if isinstance(value, list):
                row[key] = "|".join(map(str, value))
        yield number, {key: str(row[key]) for key in (*required, *optional) if row.get(key) is not None}

"""Tables as people have them, as columns of text: delimiter, encoding and format are told from the file.

Every cell is text as it stands in the file, without the spaces around it: `01` stays `01`, and `1.0` stays `1.0`. A
missing value (null, an empty cell) is the empty text. A list, in JSON or Parquet, is the text of a JSON list.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import gzip
import io
import itertools
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from cxr.errors import InputError
from cxr.extras import needing

DELIMITERS = {".csv": ",;\t|", ".tsv": "\t", ".tab": "\t"}
"""Endings of text tables, and what may separate their columns."""
_JSON_LINES, _JSON, _PARQUET, _EXCEL = (".jsonl", ".ndjson"), ".json", ".parquet", ".xlsx"
TABLE_SUFFIXES = (*DELIMITERS, *_JSON_LINES, _JSON, _PARQUET, _EXCEL)
"""Endings of the names of tables; `.gz` or `.zip` may follow."""
_PACKED = (".gz", ".zip")
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
"""UTF-32 comes first: its little-endian mark begins with that of UTF-16."""
_FALLBACK = "cp1252"
_PROBED_LINES = 200
_CHUNK = 4096
"""Rows that are turned into columns at once."""
_REPEATED = 1 << 16
"""Distinct texts of a column that are kept once, however often they appear."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table in memory.

    Attributes:
      name: of its file, for messages.
      columns: the cells of each column, by the name that the first line gives it, in the order of the file.
      lines: where each row begins in the file: a line number from 1, or in Parquet and JSON the number of the row.
      notes: what was assumed in reading it, for people.
    """

    name: str
    columns: dict[str, list[str]]
    lines: Sequence[int]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> str:
        """Where a row stands, for messages."""
        return f"{self.name}, line {self.lines[row]}"


def is_table(name: str) -> bool:
    """Whether a file is a table by its name, `labels.csv.gz` and `labels.csv.zip` included."""
    return _ending(name) in TABLE_SUFFIXES


def read_table(path: str | os.PathLike[str], sheet: str | None = None) -> Table:
    """Reads a table.

    Args:
      path: of the file; its ending says what it is.
      sheet: of an Excel file that has several.

    Raises:
      InputError: it cannot be read, or is no such table; names the line.
      MissingExtraError: Parquet or Excel, and the package for it is not installed.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the table {path}: {error.strerror}") from error
    return parse_table(os.fspath(path), data, sheet)


def parse_table(name: str, data: bytes, sheet: str | None = None, most: int | None = None) -> Table:
    """The table in the bytes of a file, see `read_table`.

    Args:
      name: of the file, whose ending says what it is.
      data: all of it.
      sheet: of an Excel file that has several.
      most: rows to read of a text table; all if not given.
    """
    data, ending = _unpack(name, data)
    if ending in DELIMITERS:
        return _parse_text(name, data, DELIMITERS[ending], most)
    if ending == _PARQUET:
        return _parse_parquet(name, data)
    if ending == _EXCEL:
        return _parse_excel(name, data, sheet)
    return _parse_json(name, data, lines=ending in _JSON_LINES)


def _ending(name: str) -> str:
    """The ending of a table's name, in lower case, without that of what is around it."""
    path = PurePath(name.lower())
    return PurePath(path.stem).suffix if path.suffix in _PACKED else path.suffix


def _unpack(name: str, data: bytes) -> tuple[bytes, str]:
    """(the table itself, the ending of its name)."""
    ending = _ending(name)
    try:
        if name.lower().endswith(".gz"):
            data = gzip.decompress(data)
        elif name.lower().endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = [member for member in archive.namelist() if is_table(member) and "__MACOSX" not in member]
                if len(members) != 1:
                    raise InputError(f"{name} holds {len(members)} tables; expected one")
                data, ending = archive.read(members[0]), _ending(members[0])
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{name} cannot be unpacked: {error}") from error
    if ending not in TABLE_SUFFIXES:
        raise InputError(f"{name} is no table by its name; expected one that ends in {', '.join(TABLE_SUFFIXES)}")
    return data, ending


def _parse_text(name: str, data: bytes, delimiters: str, most: int | None) -> Table:
    text, notes = _decode(name, data)
    try:
        delimiter = _choose_delimiter(text, delimiters)
        rows = _read_rows(text, delimiter)
        header = next((cells for _, cells in rows if _holds_any(cells)), None)
        if header is None:
            raise InputError(f"{name} is empty; expected a first line with the names of the columns")
        return _collect(name, header, itertools.islice(_cut(name, len(header), rows), most), notes)
    except csv.Error as error:
        raise InputError(f"{name} is not a valid table: {error}") from error


def _decode(name: str, data: bytes) -> tuple[str, tuple[str, ...]]:
    """(text, what was assumed): Unicode by its byte order mark, else UTF-8, else the code page of Western Windows."""
    encoding = next((encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in data[:1024]:
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    try:
        return data.decode(encoding), ()
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise InputError(f"{name} is not valid {encoding.upper()} text: {error}") from error
        try:
            text = data.decode(_FALLBACK)
        except UnicodeDecodeError:
            raise InputError(f"{name} is neither UTF-8 nor Windows-1252 text: {error}; save it as UTF-8") from error
        strange = next(character for character in text if not character.isascii())
        return text, (f"{name} is not UTF-8; it was read as Windows-1252 (its first such character is {strange!r})",)


def _choose_delimiter(text: str, delimiters: str) -> str:
    """The sign that cuts all of the first lines into equally many cells, and into most."""
    if len(delimiters) == 1:
        return delimiters
    widths = {}
    for delimiter in delimiters:
        counts = set()
        try:
            for _, cells in _read_rows(text[: _PROBED_LINES * 500], delimiter, _PROBED_LINES):
                counts |= {len(cells)} if any(cells) else set()
        except csv.Error:  # cut off within quotes, or quotes that mean nothing with this delimiter
            pass
        widths[delimiter] = min(counts, default=0) if len(counts) <= 1 else 0
    best = max(delimiters, key=lambda delimiter: widths[delimiter])
    if widths[best] > 1:
        return best
    first = next((line for line in text.splitlines() if line.strip()), "")
    return max(
        delimiters, key=first.count
    )  # rows differ in width, which is an error with a line, or there is one column


def _read_rows(text: str, delimiter: str, most: int | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yields (line on which it begins, cells) of each row."""
    # strict: otherwise an open quote swallows the rows below it
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    begin = 1
    for cells in reader:
        yield begin, cells
        begin = reader.line_num + 1
        if most is not None and begin > most:
            return


def _cut(name: str, width: int, rows: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    """The rows that hold anything, each of `width` cells: empty ones too many are what a spreadsheet leaves."""
    for line, cells in rows:
        if len(cells) == width and cells[0]:
            yield line, cells
            continue
        if not _holds_any(cells):
            continue
        if len(cells) < width or _holds_any(cells[width:]):
            raise InputError(
                f"{name}, line {line}: expected {width} cells, as in the first line; received {len(cells)}"
            )
        yield line, cells[:width]


def _holds_any(cells: Sequence[str]) -> bool:
    return bool("".join(cells).strip())


def _collect(
    name: str, header: Sequence[str], rows: Iterable[tuple[int, Sequence[str]]], notes: tuple[str, ...] = ()
) -> Table:
    """The rows as columns, each cell without the spaces around it. Columns without a name and a cell are left out.

    Raises:
      InputError: two columns have one name.
    """
    names = [column.strip() or f"column {place}" for place, column in enumerate(header, start=1)]  # as of an index
    repeated = sorted({column for column in names if names.count(column) > 1})
    if repeated:
        raise InputError(
            f"{name}: the column {repeated[0]!r} stands {names.count(repeated[0])} times in the first line"
        )
    columns: list[list[str]] = [[] for _ in names]
    known: list[dict[str, str]] = [{} for _ in names]
    lines: list[int] = []
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, _CHUNK)):
        lines += [line for line, _ in chunk]
        for into, texts, cells in zip(columns, known, zip(*(cells for _, cells in chunk), strict=True), strict=True):
            stripped = list(map(str.strip, cells))
            same = texts.setdefault if len(texts) < _REPEATED else texts.get
            into.extend(map(same, stripped, stripped))
    found = zip(header, names, columns, strict=True)
    return Table(name, {column: cells for said, column, cells in found if said.strip() or any(cells)}, lines, notes)


def _parse_json(name: str, data: bytes, lines: bool) -> Table:
    """A JSON list of objects, or one object a line."""
    text, notes = _decode(name, data)
    numbered = enumerate(text.split("\n"), start=1) if lines else [(1, text)]
    objects: list[tuple[int, Any]] = []
    for line, part in numbered:
        try:
            if part.strip():
                objects.append((line, json.loads(part)))
        except ValueError as error:
            raise InputError(f"{name}, line {line}: not JSON: {error}") from error
    if not lines:
        whole = objects[0][1] if objects else None
        if not isinstance(whole, list):
            raise InputError(f"{name}: expected a JSON list of objects, received {text:.60}")
        objects = list(enumerate(whole, start=1))
    for line, item in objects:
        if not isinstance(item, dict):
            raise InputError(f"{name}, line {line}: expected a JSON object, received {json.dumps(item):.60}")
    header = list(dict.fromkeys(key for _, item in objects for key in item))
    return _collect(
        name,
        [key.strip() for key in header],
        ((line, [_to_text(item.get(key)) for key in header]) for line, item in objects),
        notes,
    )


def _parse_parquet(name: str, data: bytes) -> Table:
    with needing("a Parquet table", "tables"):
        import pyarrow
        from pyarrow import parquet
    try:
        table = parquet.read_table(pyarrow.BufferReader(data))
        columns = [[_to_text(value) for value in column.to_pylist()] for column in table.columns]
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{name} is not a valid Parquet table: {error}") from error
    return _collect(name, table.column_names, enumerate(zip(*columns, strict=True), start=1))


def _parse_excel(name: str, data: bytes, sheet: str | None) -> Table:
    with needing("an Excel table", "tables"):
        import openpyxl
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        filled = {page.title: page for page in book.worksheets if page.max_row}
        if sheet is None and len(filled) == 1:
            (sheet,) = filled
        if sheet not in filled:
            raise InputError(
                f"{name}: expected the name of one of its sheets, {', '.join(filled) or '(none)'}; "
                f"received {sheet or 'none'}. Give it as {name}#SHEET"
            )
        rows = ((line, [_to_text(cell) for cell in cells]) for line, cells in enumerate(filled[sheet].values, start=1))
        header = next(((line, cells) for line, cells in rows if any(cells)), (1, []))[1]
        padded = ((line, cells + [""] * (len(header) - len(cells))) for line, cells in rows)
        return _collect(name, header, _cut(name, len(header), padded))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{name} is not a valid Excel file: {error}") from error


def _to_text(value: Any) -> str:
    """A cell as text."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    if isinstance(value, (list, dict, bool)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)

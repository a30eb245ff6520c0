"""Tables of every kind, written here by other means and read back as text."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest

from cxr.errors import InputError
from cxr.tables import is_table, parse_table, read_table

COLUMNS = {"path": ["a/1.png", "b.png"], "label": ["Grün, 1", ""], "n": ["01", "1.0"]}
TEXT = 'path,label,n\na/1.png,"Grün, 1",01\nb.png,,1.0\n'


def test_a_plain_table():
    table = parse_table("t.csv", TEXT.encode())
    assert (table.columns, list(table.lines), table.notes) == (COLUMNS, [2, 3], ())
    assert len(table) == 2 and table.place(1) == "t.csv, line 3"


SEMICOLONS = 'path;label;n\r\na/1.png;"Grün, 1";01\r\nb.png;;1.0\r\n'
SPELLINGS = {
    "semicolons": ("t.csv", SEMICOLONS.encode()),
    "tabs in a csv": ("t.csv", SEMICOLONS.replace(";", "\t").encode()),
    "bars": ("t.csv", SEMICOLONS.replace(";", "|").encode()),
    "tsv": ("t.TSV", SEMICOLONS.replace(";", "\t").encode()),
    "byte order mark": ("t.csv", TEXT.encode("utf-8-sig")),
    "UTF-16": ("t.csv", TEXT.encode("utf-16")),
    "UTF-16 without a mark": ("t.csv", TEXT.encode("utf-16-le")),
    "UTF-32": ("t.csv", TEXT.encode("utf-32")),
    "spaces": ("t.csv", 'path , label, n\na/1.png, "Grün, 1", 01\nb.png, , 1.0\n'.encode()),
    "blank rows": ("t.csv", f"\n{TEXT}\n,,\n".encode()),
    "empty cells at the end": ("t.csv", TEXT.replace("01\n", "01,,\n").encode()),
    "gzip": ("t.csv.gz", gzip.compress(TEXT.encode())),
    "no column name": ("t.csv", TEXT.encode()),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_one_table(name: str):
    assert parse_table(*SPELLINGS[name]).columns == COLUMNS


def test_windows_1252_is_said():
    table = parse_table("t.csv", TEXT.encode("cp1252"))
    assert table.columns == COLUMNS
    assert table.notes == ("t.csv is not UTF-8; it was read as Windows-1252 (its first such character is 'ü')",)


def test_a_delimiter_is_told_by_all_rows():
    """The sign that appears most often in the first line is not the one that cuts all rows alike."""
    text = "Image Index,Finding Labels,Size[Width,Height]\n" + "".join(
        f"{n}.png,Mass|Nodule|Edema|Hernia,1,2\n" for n in range(9)
    )
    assert list(parse_table("t.csv", text.encode()).columns) == [
        "Image Index",
        "Finding Labels",
        "Size[Width",
        "Height]",
    ]
    assert list(parse_table("t.csv", b"name\n1.png\n2.png\n").columns) == ["name"]


def test_lines_of_rows_with_line_breaks():
    table = parse_table("t.csv", b'a,b\n"1\n2",x\n\n3,y\n')
    assert table.columns == {"a": ["1\n2", "3"], "b": ["x", "y"]}
    assert list(table.lines) == [2, 5]


def test_columns_without_a_name_get_one():
    table = parse_table("t.csv", b",path,,\n0,a.png,,\n1,b.png,,x\n")
    assert table.columns == {"column 1": ["0", "1"], "path": ["a.png", "b.png"], "column 4": ["", "x"]}


def test_json():
    rows = [{"path": "a.png", "label": ["x", "y"], "n": 1}, {"path": "b.png", "flag": True, "n": None}]
    expected = {"path": ["a.png", "b.png"], "label": ['["x", "y"]', ""], "n": ["1", ""], "flag": ["", "true"]}
    lines = "\n".join(map(json.dumps, rows)) + "\n\n"
    assert parse_table("t.jsonl", lines.encode()).columns == expected
    assert parse_table("t.ndjson.gz", gzip.compress(lines.encode())).columns == expected
    assert parse_table("t.json", json.dumps(rows).encode()).columns == expected


def test_parquet_and_excel(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    openpyxl = pytest.importorskip("openpyxl")
    from pyarrow import parquet

    columns = {"path": ["a.png", "b.png"], "labels": [["x", "y"], None], "n": [1, None], "f": [1.5, 2.0]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet")
    assert read.columns == {
        "path": ["a.png", "b.png"],
        "labels": ['["x", "y"]', ""],
        "n": ["1", ""],
        "f": ["1.5", "2.0"],
    }
    assert list(read.lines) == [1, 2]

    book = openpyxl.Workbook()
    for row in (["path", "n"], ["a.png", 1], [None, None], ["b.png", "01"]):
        book.active.append(row)
    book.active.title = "Labels"
    book.save(tmp_path / "t.xlsx")
    read = read_table(tmp_path / "t.xlsx")
    assert (read.columns, list(read.lines)) == ({"path": ["a.png", "b.png"], "n": ["1", "01"]}, [2, 4])
    book.create_sheet("More").append(["x"])
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(
        InputError, match=r"one of its sheets, Labels, More; received none\. Give it as .*t\.xlsx#SHEET"
    ):
        read_table(tmp_path / "t.xlsx")
    assert read_table(tmp_path / "t.xlsx", "Labels").columns == read.columns


def test_a_table_in_a_zip():
    def packed(*names: str) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, TEXT)
        return file.getvalue()

    assert parse_table("t.csv.zip", packed("read me.txt", "x/t.csv")).columns == COLUMNS
    with pytest.raises(InputError, match="holds 2 tables; expected one"):
        parse_table("t.csv.zip", packed("1.csv", "2.csv"))


REFUSED = {
    "short row.csv": (b"a,b\n1,2\n3\n", "line 3: expected 2 cells, as in the first line; received 1"),
    "long row.csv": (b"a,b\n1,2\n3,4,5\n", "line 3: expected 2 cells, as in the first line; received 3"),
    "open quote.csv": (b'a,b\n1,"2\n3,4\n', "not a valid table: unexpected end of data"),
    "twice.csv": (b"a,b,a\n1,2,3\n", "the column 'a' stands 2 times in the first line"),
    "empty.csv": (b"", "is empty; expected a first line"),
    "no text.csv": (b"a\xff\x81,b\n1,2\n", "neither UTF-8 nor Windows-1252"),
    "bad 16.csv": (b"\xff\xfea\xd8", "is not valid UTF-16 text"),
    "not.jsonl": (b'{"a": 1}\n{"a"\n', "line 2: not JSON"),
    "list.jsonl": (b'["a"]\n', "line 1: expected a JSON object"),
    "object.json": (b'{"a": 1}', "expected a JSON list of objects"),
    "broken.csv.gz": (gzip.compress(b"a,b\n1,2\n")[:-9], "cannot be unpacked"),
    "no.csv.gz": (b"a,b\n", "cannot be unpacked"),
    "no.csv.zip": (b"a,b\n", "cannot be unpacked"),
    "no.parquet": (b"PAR1", "is not a valid Parquet table"),
    "no.xlsx": (b"PK", "is not a valid Excel file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str):
    data, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as caught:
        parse_table(name, data)
    assert name in str(caught.value)


def test_a_table_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(InputError, match=r"cannot read the table .*none\.csv: No such file"):
        read_table(tmp_path / "none.csv")


def test_names_of_tables():
    assert all(map(is_table, ("a.csv", "A.CSV.GZ", "x/b.parquet", "c.jsonl", "d.csv.zip", "e.xlsx")))
    assert not any(map(is_table, ("a.png", "a.zip", "a.gz", "csv", "a.txt")))

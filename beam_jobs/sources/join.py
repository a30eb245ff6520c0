"""Several tables as one: rows below each other where the columns are the same, else columns looked up by key."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence

from cxr.errors import InputError
from cxr.tables import Table

NOT_THERE = "\0not there"
"""The cell of a row that a joined table does not have: unlike an empty one it says nothing."""
_CONDITION = re.compile(r"(?P<column>.+?)\s*(?P<sign><=|>=|!=|=|<|>)\s*(?P<value>.*)", re.DOTALL)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge
}  # fmt: skip


def join_tables(tables: Sequence[Table]) -> tuple[Table, tuple[str, ...]]:
    """One table of all, and what was done, for people.

    A table with the columns of the first one is put below it, and so is one that shares columns, but none of the rows
    (`train.csv` and `valid.csv`). Any other one is looked up, row by row, by the columns that it shares with what there
    is so far; a row that it does not have gets the cell `NOT_THERE`.

    Raises:
      InputError: a table shares no column, holds one key twice with different cells, or lacks most of the rows.
    """
    whole, described = tables[0], list(tables[0].notes)
    for table in tables[1:]:
        described += table.notes
        if set(table.columns) == set(whole.columns):
            whole = _append(whole, table)
            described.append(f"rows of {table.name} added: {len(table):,}")
            continue
        joined, keys, missed = _look_up(whole, table)
        if missed == len(whole):
            whole = _append(whole, table)
            described.append(f"rows of {table.name} added: {len(table):,}, as it has none of the others")
            continue
        if missed > len(whole) / 2:
            raise InputError(
                f"{table.name} has only {len(whole) - missed:,} of the {len(whole):,} rows of {whole.name} by "
                f"{', '.join(keys)}. Are these written alike in both? Rename a column that is no key"
            )
        without = f"; {missed:,} rows are not in it, and what it would say of them is not known" if missed else ""
        described.append(f"{table.name} joined by {', '.join(keys)}{without}")
        whole = joined
    return whole, tuple(described)


def _append(whole: Table, table: Table) -> Table:
    names = dict.fromkeys([*whole.columns, *table.columns])
    columns = {
        name: whole.columns.get(name, [NOT_THERE] * len(whole)) + table.columns.get(name, [NOT_THERE] * len(table))
        for name in names
    }
    return Table(f"{whole.name} and {table.name}", columns, [*whole.lines, *table.lines])


def _look_up(whole: Table, table: Table) -> tuple[Table, list[str], int]:
    """(the table with the other's columns, the columns that are the key, rows that the other does not have)."""
    keys = [name for name in table.columns if name in whole.columns]
    if not keys:
        raise InputError(
            f"{table.name} shares no column with {whole.name}, so their rows cannot be joined: "
            f"{', '.join(table.columns)} against {', '.join(whole.columns)}"
        )
    new = [name for name in table.columns if name not in whole.columns]
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    rows = zip(_tuples(table, keys), _tuples(table, new), strict=True)
    for row, (key, cells) in enumerate(rows):
        if known.setdefault(key, cells) != cells:
            raise InputError(
                f"{table.place(row)}: {', '.join(keys)} {', '.join(key)} appears twice, with different cells. "
                "Give the table whose rows are the images first, as the others are looked up in"
            )
    empty = (NOT_THERE,) * len(new)
    found = [known.get(key) for key in _tuples(whole, keys)]
    looked_up = zip(*(cells or empty for cells in found), strict=True)
    columns = {**whole.columns, **{name: list(cells) for name, cells in zip(new, looked_up, strict=True)}}
    return Table(whole.name, columns, whole.lines), keys, sum(cells is None for cells in found)


def _tuples(table: Table, names: Sequence[str]) -> Sequence[tuple[str, ...]]:
    return list(zip(*(table.columns[name] for name in names), strict=True)) if names else [()] * len(table)


def filter_rows(table: Table, conditions: Sequence[str]) -> tuple[Table, tuple[str, ...]]:
    """The rows for which all conditions hold, and what each left, for people.

    Args:
      table: to filter.
      conditions: `COLUMN=VALUE`, `COLUMN=A|B` for one of several, `COLUMN!=VALUE`, and `<`, `<=`, `>`, `>=` for
        numbers, which a cell that is none never fulfils.

    Raises:
      InputError: a condition cannot be understood, or no row is left.
    """
    described = []
    for condition in conditions:
        match = _CONDITION.fullmatch(condition)
        if match is None:
            raise InputError(f"--where {condition}: expected COLUMN=VALUE, or another sign of != < <= > >=")
        cells = table.columns[find_column(table, match["column"], f"--where {condition}")]
        if match["sign"] in ("=", "!=") and (strange := set(match["value"].split("|")) - set(cells)):
            raise InputError(f"--where {condition}: no row has {min(strange)!r}; the column has {_some(set(cells))}")
        holds = _test(match["sign"], match["value"], condition)
        answers = {cell: holds(cell) for cell in set(cells)}
        rows = [row for row, cell in enumerate(cells) if answers[cell]]
        if not rows:
            raise InputError(f"--where {condition}: no row is left; the column has {_some(answers)}")
        described.append(f"rows with {condition}: {len(rows):,} of {len(table):,}")
        columns = {name: [column[row] for row in rows] for name, column in table.columns.items()}
        table = Table(table.name, columns, [table.lines[row] for row in rows])
    return table, tuple(described)


def _some(cells: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(cells)[:8]))


def _test(sign: str, value: str, condition: str) -> Callable[[str], bool]:
    if sign in ("=", "!="):
        wanted = set(value.split("|"))
        return lambda cell: (cell in wanted) == (sign == "=")
    limit = to_number(value)
    if limit is None:
        raise InputError(f"--where {condition}: expected a number after {sign}, received {value!r}")

    def compare(cell: str) -> bool:
        number = to_number(cell)
        return number is not None and _COMPARE[sign](number, limit)

    return compare


def to_number(text: str) -> float | None:
    """The number that a cell is, or None."""
    try:
        return float(text)
    except ValueError:
        return None


def find_column(table: Table, name: str, purpose: str) -> str:
    """The column of that name: exactly, or in another case where only one is.

    Raises:
      InputError: there is none; names all.
    """
    if name in table.columns:
        return name
    alike = [column for column in table.columns if column.casefold() == name.strip().casefold()]
    if len(alike) != 1:
        raise InputError(f"{purpose}: {table.name} has no column {name!r}; it has {', '.join(table.columns)}")
    return alike[0]

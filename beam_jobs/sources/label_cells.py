"""What the cells of a table say about labels: which are present, and which are not known."""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from beam_jobs.sources.join import NOT_THERE
from cxr.errors import InputError
from cxr.tables import Table

Uncertain = Literal["ignore", "positive", "negative"]
Missing = Literal["negative", "ignore"]
Readers = Literal["any", "majority", "all"]
UNCERTAIN, MISSING, READERS = get_args(Uncertain), get_args(Missing), get_args(Readers)

EMPTY = frozenset(("", "nan", "none", "null", "n/a", "na", "<na>", "#n/a", "-", "--", NOT_THERE))
"""Cells, in lower case, in which there is no label."""
_STATES = {
    "1": True, "1.0": True, "true": True, "yes": True, "y": True, "positive": True,
    "0": False, "0.0": False, "false": False, "no": False, "n": False, "negative": False,
}  # fmt: skip
_LIST = re.compile(r"\[[^\[\]]*\]|\(['\"].*['\"],?\)", re.DOTALL)
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_UNCERTAIN = frozenset(("-1", "-1.0", "u", "uncertain", "?"))


class Labels(NamedTuple):
    """What is known of the labels of an image.

    Attributes:
      present: names of those that it has.
      unknown: names of those of which it is not known.
    """

    present: tuple[str, ...]
    unknown: tuple[str, ...] = ()


def split_cell(cell: str, separator: str = "|") -> tuple[str, ...]:
    """The labels in one cell, without repetitions: joined by a separator, or a list as text (`['mass', 'nodule']`)."""
    if cell.lower() in EMPTY:
        return ()
    joined = cell.split(separator) if separator else [cell]
    parts = _read_list(cell) if _LIST.fullmatch(cell) else joined
    texts = (str(part).strip() for part in parts)
    return tuple(dict.fromkeys(text for text in texts if text.lower() not in EMPTY))


def _read_list(cell: str) -> Sequence[Any]:
    """The items of a list as text: of JSON, of Python, of NumPy (`['a' 'b']`), or without quotes."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        quoted = [one or other for one, other in _QUOTED.findall(cell)]
        return quoted or cell[1:-1].split(",")


def is_state_column(cells: Collection[str]) -> bool:
    """Whether a column says of one label whether an image has it: 0, 1, -1 or nothing."""
    seen = {cell.lower() for cell in set(cells)}
    return bool(seen & (_STATES.keys() | _UNCERTAIN)) and seen <= (_STATES.keys() | _UNCERTAIN | EMPTY)


def odd_cell(cells: Sequence[str]) -> str | None:
    """A cell that is none of 0, 1, -1 or nothing, in a column of which most are; None in any other column."""
    counts = collections.Counter(cells)
    odd = [cell for cell in counts if cell.lower() not in (_STATES.keys() | _UNCERTAIN | EMPTY)]
    states = sum(count for cell, count in counts.items() if cell.lower() in _STATES or cell.lower() in _UNCERTAIN)
    return odd[0] if odd and states > len(cells) / 2 else None


def read_states(table: Table, columns: Sequence[str], uncertain: Uncertain, missing: Missing) -> list[Labels]:
    """The labels of each row, from one column for each label.

    Args:
      table: the table.
      columns: names of the labels' columns.
      uncertain: what an uncertain label (-1) counts as.
      missing: what a label that is not mentioned (an empty cell) counts as.

    Raises:
      InputError: a cell is none of 0, 1, -1 or empty; names the line.
    """
    known: dict[tuple[str, ...], Labels] = {}
    found = []
    for row, cells in enumerate(zip(*(table.columns[column] for column in columns), strict=True)):
        labels = known.get(cells)
        if labels is None:
            present, unknown = [], []
            for column, cell in zip(columns, cells, strict=True):
                state = _read_state(cell.lower(), uncertain, missing)
                if state == "bad":
                    raise InputError(
                        f"{table.place(row)}: the label {column!r} is {cell!r}; expected 1 (present), 0 (absent), "
                        "-1 (uncertain) or nothing"
                    )
                if state is None:
                    unknown.append(column)
                elif state:
                    present.append(column)
            labels = known[cells] = Labels(tuple(present), tuple(unknown))
        found.append(labels)
    return found


def _read_state(cell: str, uncertain: Uncertain, missing: Missing) -> bool | Literal["bad"] | None:
    """True, False, None for a label that is not known, or `bad`."""
    if cell in _STATES:
        return _STATES[cell]
    if cell == NOT_THERE:
        return None
    if cell in _UNCERTAIN:
        return {"positive": True, "negative": False, "ignore": None}[uncertain]
    if cell in EMPTY:
        return {"negative": False, "ignore": None}[missing]
    return "bad"


def count_states(table: Table, columns: Sequence[str]) -> tuple[int, int]:
    """(cells that are uncertain, cells that are empty) of the labels' columns."""
    counts: collections.Counter[str] = collections.Counter()
    for column in columns:
        for cell, times in collections.Counter(table.columns[column]).items():
            counts["uncertain"] += times * (cell.lower() in _UNCERTAIN)
            counts["empty"] += times * (cell.lower() in EMPTY)
    return counts["uncertain"], counts["empty"]


def merge_readers(rows: Sequence[Labels], readers: Readers) -> Labels:
    """The labels of an image of which several rows say something.

    Args:
      rows: what each says.
      readers: a label is present if any row says so, more than half of those that know, or all of those.
    """
    names = dict.fromkeys(name for row in rows for name in (*row.present, *row.unknown))
    present, unknown = [], []
    for name in names:
        votes = [name in row.present for row in rows if name not in row.unknown]
        if not votes:
            unknown.append(name)
        elif {"any": any(votes), "majority": 2 * sum(votes) > len(votes), "all": all(votes)}[readers]:
            present.append(name)
    return Labels(tuple(present), tuple(unknown))


def rename(labels: Labels, names: Mapping[str, str]) -> Labels:
    """Labels under other names; those that become nothing are left out, and those that become one are one.

    A label that is present under one of its old names is present.
    """
    present = dict.fromkeys(new for old in labels.present if (new := names.get(old, old)))
    unknown = dict.fromkeys(new for old in labels.unknown if (new := names.get(old, old)) and new not in present)
    return Labels(tuple(present), tuple(unknown))

"""Which column of a table says what: by the names that the user gives, else by names in use."""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Mapping, Sequence

from beam_jobs.sources.join import find_column
from cxr.errors import InputError
from cxr.tables import Table

NAMES_IN_USE = {
    "path": ("path", "file", "filename", "filepath", "filepaths", "image", "imagepath", "imagefile", "imagename",
             "imageindex", "imageid", "img", "imgpath", "dicomid"),
    "label": ("label", "labels", "class", "classname", "target", "diagnosis", "finding", "findings", "findinglabels",
              "category"),
    "patient": ("patient", "patientid", "subject", "subjectid", "pid"),
    "split": ("split", "subset", "partition", "set", "fold"),
    "view": ("view", "viewposition", "projection"),
    "age": ("age", "patientage"),
    "sex": ("sex", "gender", "patientsex", "patientgender"),
    "site": ("site", "hospital", "institution", "center", "centre"),
    "cause": ("cause",),
}  # fmt: skip
"""What a column is for, and names that it has, in lower case and without signs."""
ROLES = tuple(NAMES_IN_USE)


def choose_columns(table: Table, given: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The column for each purpose, and which of them were told by their names, for people.

    Args:
      table: the table.
      given: `--columns`: columns by purpose; a path may be a template over columns, an empty name means none,
        and one that ends in `?` may be missing.

    Raises:
      InputError: a purpose is unknown, a column is missing, or two columns have names for the same purpose.
    """
    unknown = [role for role in given if role not in ROLES]
    if unknown:
        raise InputError(f"--columns {unknown[0]}={given[unknown[0]]}: expected one of {', '.join(ROLES)}")
    chosen: dict[str, str] = {}
    told: list[str] = []
    for role, names in NAMES_IN_USE.items():
        if role in given:
            name = given[role]
            if name:
                if role == "path" and "{" in name:
                    chosen[role] = name
                elif not name.endswith("?") or name[:-1] in table.columns:
                    chosen[role] = find_column(table, name.removesuffix("?"), f"--columns {role}={name}")
            continue
        fitting = [name for name in table.columns if _bare(name) in names and name not in given.values()]
        exact = [name for name in fitting if name.casefold() == role]
        if len(exact or fitting) > 1:
            raise InputError(
                f"{table.name}: the columns {' and '.join(map(repr, fitting))} may each be the {role}; "
                f"choose one with --columns {role}=NAME"
            )
        if fitting:
            chosen[role] = (exact or fitting)[0]
            if chosen[role].casefold() != role:
                told.append(f"{role} from '{chosen[role]}'")
    return chosen, tuple(told)


def make_paths(table: Table, column: str) -> Sequence[str]:
    """The path of each row: the cells of a column, or a template over columns such as `p{subject:.2}/{image}.jpg`.

    Raises:
      InputError: the template names a column that is missing, or is none.
    """
    if "{" not in column:
        return table.columns[column]
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(column) if name}
    except ValueError as error:
        raise InputError(f"--columns path={column}: not a template: {error}") from error
    used = {name: find_column(table, name, f"--columns path={column}") for name in names}
    columns = [table.columns[name] for name in used.values()]
    try:
        return [column.format_map(dict(zip(used, cells, strict=True))) for cells in zip(*columns, strict=True)]
    except (ValueError, KeyError, IndexError, AttributeError, MemoryError) as error:
        raise InputError(f"--columns path={column}: not a template over columns: {error}") from error


@functools.lru_cache(maxsize=1024)
def to_age(cell: str) -> str:
    """An age in years as text: `058Y`, `58` and `58.0` are `58`, `006M` is `0.5`; nothing where it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([YMWD]?)[a-z]*", cell.strip(), re.IGNORECASE)
    if match is None:
        return ""
    years = float(match[1]) / {"M": 12, "W": 52.18, "D": 365.25}.get(match[2].upper(), 1)
    return f"{round(years, 2):g}"


def to_sex(cell: str) -> str:
    """`F`, `M`, or another single sign as it is; nothing where it is not stated."""
    word = cell.strip().upper()
    return {"FEMALE": "F", "MALE": "M", "WOMAN": "F", "MAN": "M", "UNKNOWN": "", "NAN": "", "NONE": ""}.get(
        word, word[:1]
    )


def _bare(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())

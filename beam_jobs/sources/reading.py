"""How an input is to be read: what a person or a layout says of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from beam_jobs.sources.label_cells import Missing, Readers, Uncertain
from cxr.errors import InputError


@dataclasses.dataclass(frozen=True)
class Reading:
    """How an input is to be read. The other fields are the options of `PreprocessConfig` of these names.

    Attributes:
      exclude: regular expression; files whose path has a match are no part of the input.
      new_splits: the source's own splits do not matter.
      trusted: whoever wrote the folders meant `split/class/*`; nothing is doubted.
    """

    table: tuple[str, ...] | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label_columns: tuple[str, ...] = ()
    label_separator: str | None = None
    label_pattern: str | None = None
    split_pattern: str | None = None
    patient_pattern: str | None = None
    rename_labels: str | Mapping[str, str] | None = None
    rename_splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    split_lists: Mapping[str, str] = dataclasses.field(default_factory=dict)
    where: tuple[str, ...] = ()
    readers: Readers | None = None
    uncertain: Uncertain | None = None
    missing: Missing | None = None
    classes: tuple[str, ...] | None = None
    exclude: str | None = None
    partial: bool = False
    new_splits: bool = False
    trusted: bool = False


def label_in(path: str, pattern: re.Pattern[str]) -> str | None:
    """What a `--label-pattern` finds in a path: its group `label`, else the first one; None where it has no match."""
    match = pattern.search(path)
    return (match["label" if "label" in pattern.groupindex else 1] or None) if match else None


def compile_pattern(pattern: str, flag: str) -> re.Pattern[str]:
    """Checks a regular expression over the path, whose first group is what it tells.

    Raises:
      InputError: not a regular expression, or without a group.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"{flag} {pattern!r} is not a regular expression: {error}") from error
    if not compiled.groups:
        what = flag.removeprefix("--").partition("-")[0]
        raise InputError(f"{flag} {pattern!r} has no group; put the {what}'s part in parentheses")
    return compiled

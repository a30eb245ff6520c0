"""Layouts: how public data sets are laid out by their publishers, each in a file of its own in `layouts/`.

A layout is a set of the options that a person could give, with patterns for the files that it is recognised by:

    title = "..."                       what it is
    source = "..."                      paper and publisher
    about = "..."                       what a person should know
    [recognise]
    files = ["train/NORMAL/*.jpeg"]     each has to match the end of a path
    columns = ["Path", "Sex"]           columns of the first table, where the name of a file is not enough
    [read]                              fields of `Reading`; tables and lists of files are patterns as above, and one
    table = ["train.csv", "x.csv?"]     that ends in `?` may be absent
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from beam_jobs.sources.reading import Reading
from beam_jobs.sources.stores import Entry, Store, name_some
from cxr.errors import InputError
from cxr.options import default_of, nearest
from cxr.tables import parse_table

AUTO, NONE = "auto", "none"
SUFFIX = ".toml"


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a public data set is laid out.

    Attributes:
      name: for `--layout`.
      title: what it is.
      source: paper and publisher.
      about: what a person should know.
      files: patterns by which it is recognised.
      columns: of its first table, by which it is recognised.
      read: fields of `Reading`.
    """

    name: str
    title: str
    source: str
    about: str
    files: tuple[str, ...]
    columns: tuple[str, ...]
    read: Mapping[str, Any]

    def fits(self, store: Store, entries: Mapping[str, Entry]) -> bool:
        """Whether the files of an input are those of this data set."""
        if any(_match(pattern, entries) is None for pattern in self.files):
            return False
        tables = self.read.get("table") or ()
        path = _match(tables[0], entries) if self.columns and tables else None
        return not self.columns or (path is not None and set(self.columns) <= _header(store, path, entries))

    def reading(self, entries: Collection[str], given: Reading) -> tuple[Reading, tuple[str, ...]]:
        """How to read an input of this layout, where what a person gives goes before; and notes for people.

        Args:
          entries: paths of the input.
          given: by a person.

        Raises:
          InputError: a table of the data set is not there.
        """
        fields = dict(self.read)
        notes: tuple[str, ...] = ()
        if given.table:
            fields["table"] = given.table
        elif "table" in fields:
            fields["table"] = tuple(filter(None, (self._file(name, entries) for name in fields["table"])))
        if "split_lists" in fields:
            found = {split: self._file(f"{name}?", entries) for split, name in fields["split_lists"].items()}
            absent = [fields["split_lists"][split] for split, path in found.items() if path is None]
            fields["split_lists"] = {} if absent else found
            if absent and not given.split_lists:
                notes = (f"the publisher's splits are not used, as {' and '.join(absent)} is not there",)
        for field in dataclasses.fields(Reading):
            value = getattr(given, field.name)
            if value != default_of(Reading, field.name):
                merge = isinstance(value, Mapping) and isinstance(fields.get(field.name), Mapping)
                fields[field.name] = {**fields[field.name], **value} if merge else value
            elif isinstance(fields.get(field.name), list):
                fields[field.name] = tuple(fields[field.name])
        return Reading(**fields), notes

    def _file(self, pattern: str, entries: Collection[str]) -> str | None:
        found = _matches(pattern.removesuffix("?"), entries)
        if not found and not pattern.endswith("?"):
            raise InputError(f"--layout {self.name}: {pattern}, a table of {self.title}, is not below the input")
        if len(found) > 1:
            raise InputError(
                f"--layout {self.name}: {pattern} may be {name_some(found)}. Say which with --layout {self.name} "
                f"--table {found[0]}, or several joined by commas"
            )
        return found[0] if found else None


@functools.cache
def known_layouts() -> dict[str, Layout]:
    """The layouts that come with this package, by name."""
    folder = resources.files("beam_jobs.sources") / "layouts"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(SUFFIX)), key=lambda file: file.name)
    return {
        name: parse_layout(name, file.read_text(encoding="utf-8"))
        for file in files
        for name in [file.name.removesuffix(SUFFIX)]
    }


def parse_layout(name: str, text: str) -> Layout:
    """The layout that a file describes.

    Raises:
      InputError: it is no TOML, lacks a part, or has one that is unknown.
    """
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"the layout {name} is not valid TOML: {error}") from error
    recognise, read = fields.pop("recognise", {}), fields.pop("read", {})
    known = {field.name for field in dataclasses.fields(Reading)}
    for part, value in (("recognise", recognise), ("read", read)):
        if not isinstance(value, dict):
            raise InputError(f"the layout {name}: expected [{part}] with options below it, received {value!r}")
    for key in ("table", "label_columns", "where", "classes"):
        if not isinstance(read.get(key, []), list):
            raise InputError(f"the layout {name}: expected read.{key} to be a list of texts, received {read[key]!r}")
    for key in ("columns", "split_lists", "rename_splits"):
        if not isinstance(read.get(key, {}), dict):
            raise InputError(f"the layout {name}: expected read.{key} to be a table of names, received {read[key]!r}")
    for part, names, allowed in (
        ("", fields, {"title", "source", "about"}), ("recognise.", recognise, {"files", "columns"}),
        ("read.", read, known),
    ):  # fmt: skip
        for wrong in sorted(set(names) - allowed):
            hint = nearest(wrong, allowed) or f"; known are {', '.join(sorted(allowed))}"
            raise InputError(f"the layout {name} has no part {part}{wrong}{hint}")
    return Layout(
        name, fields.get("title", name), fields.get("source", ""), fields.get("about", ""),
        tuple(recognise.get("files", ())), tuple(recognise.get("columns", ())), read,
    )  # fmt: skip


def choose_layout(
    asked: str, store: Store, entries: Mapping[str, Entry], given: Reading
) -> tuple[Reading, tuple[str, ...]]:
    """How to read an input, and what it was recognised as, for people.

    Args:
      asked: `auto`, `none`, the name of a known layout or the path of a file.
      store: the input.
      entries: of it.
      given: what a person says of it.

    Raises:
      InputError: there is no such layout, or the input looks like several.
    """
    if asked == NONE:
        return given, ()
    layouts = known_layouts()
    if asked != AUTO:
        layout = layouts.get(asked) or _layout_file(asked)
        reading, notes = layout.reading(entries, given)
        return reading, (f"layout: {layout.title} (--layout {asked})", *notes)
    if given.table or given.label_pattern:
        return given, ()
    fitting = [layout for layout in layouts.values() if layout.fits(store, entries)]
    if len(fitting) > 1:
        names = ", ".join(layout.name for layout in fitting)
        raise InputError(f"{store.root} looks like several data sets: {names}. Choose one with --layout NAME, or none")
    if not fitting:
        return given, ()
    (layout,) = fitting
    reading, notes = layout.reading(entries, given)
    recognised = f"recognised as {layout.title} (--layout {layout.name}; --layout none forbids it)"
    return reading, (recognised, layout.about, *notes)


def _layout_file(path: str) -> Layout:
    if path.endswith(SUFFIX):
        try:
            return parse_layout(path, Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--layout {path} cannot be read: {error}") from error
    hint = (
        nearest(path, known_layouts()) or f"; expected {', '.join([AUTO, NONE, *known_layouts()])}, or a {SUFFIX} file"
    )
    raise InputError(f"--layout {path}: there is no such layout{hint}")


def _match(pattern: str, paths: Collection[str]) -> str | None:
    """The path with the fewest folders that ends with what a pattern matches, folder by folder; None without any."""
    found = _matches(pattern, paths)
    return found[0] if found else None


def _matches(pattern: str, paths: Collection[str]) -> list[str]:
    """All such paths with the fewest folders."""
    compiled = re.compile("(?:.*/)?" + "[^/]*".join(map(re.escape, pattern.split("*"))))
    literal = max(pattern.split("*"), key=len)  # looked for first, as that is quick
    found = [path for path in paths if literal in path and compiled.fullmatch(path)]
    fewest = min((path.count("/") for path in found), default=0)
    return sorted(path for path in found if path.count("/") == fewest)


def _header(store: Store, path: str, entries: Mapping[str, Entry]) -> set[str]:
    """Names of the columns of a table."""
    try:
        return set(parse_table(path, store.read(path), most=1).columns)
    except InputError:
        return set()

"""Images that tables name, and what their rows say of labels, splits, patients and groups."""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from beam_jobs.sources.columns import choose_columns, make_paths, to_age, to_sex
from beam_jobs.sources.file_finder import FileFinder, same_file
from beam_jobs.sources.join import filter_rows, find_column, join_tables
from beam_jobs.sources.label_cells import (
    EMPTY,
    Labels,
    count_states,
    is_state_column,
    merge_readers,
    odd_cell,
    read_states,
    split_cell,
)
from beam_jobs.sources.reading import Reading, compile_pattern, label_in
from beam_jobs.sources.source_image import SourceImage
from beam_jobs.sources.stores import Entry, Store, name_some
from cxr.errors import InputError
from cxr.options import nearest
from cxr.tables import Table, is_table, parse_table, read_table
from tfrecords.images.file_lists import is_document


class ImageTable:
    """The images that the tables of an input name, and what they say of them.

    Args:
      store: the files.
      entries: of the store.
      reading: how.
    """

    def __init__(self, store: Store, entries: Mapping[str, Entry], reading: Reading):
        self._store, self._entries, self._reading = store, entries, reading

    def read(self) -> tuple[list[SourceImage], tuple[str, ...], tuple[str, ...] | None]:
        """(images, lines for people, label names in order where the tables give it).

        Raises:
          InputError: a table cannot be read, or what it means is not certain.
        """
        reading = self._reading
        tables = [_open_table(self._store, self._entries, name) for name in reading.table or ()]
        table, described = join_tables(tables)
        table, filtered = filter_rows(table, reading.where)
        columns, told = choose_columns(table, reading.columns)
        if "path" not in columns:
            raise InputError(
                f"{table.name}: no column is named like a path; it has {', '.join(table.columns)}. "
                "Say which with --columns path=NAME"
            )
        if told:
            described = (*described, f"columns told by their names: {', '.join(told)}")
        labels, names, counted = self._labels(table, columns)
        paths = self._paths(table, make_paths(table, columns["path"]))
        rows = [row for row, path in enumerate(paths) if path is not None]
        images, merged = self._merge(table, columns, rows, paths, labels)
        return images, (*described, *filtered, *counted, *self._left_out(paths), *merged), names

    def _paths(self, table: Table, cells: Sequence[str]) -> list[str | None]:
        """The file of each row; None where there is none and that is allowed."""
        finder = FileFinder(path for path in self._entries if not is_document(path))
        known: dict[str, str | None] = {}
        meant: dict[str, str] = {}
        missing: list[str] = []
        for row, cell in enumerate(cells):
            if cell in known:
                continue
            if not cell:
                raise InputError(f"{table.place(row)}: the path is empty")
            found = finder.find(cell)
            if len(found) > 1:
                raise InputError(
                    f"{table.place(row)}: {cell!r} may be {len(found)} files: {name_some(sorted(found))}. "
                    "Give paths that say which, for example by a template: --columns path='FOLDER/{COLUMN}'"
                )
            known[cell] = found[0] if found else None
            if not found:
                missing.append(f"{cell!r} (line {table.lines[row]})")
            elif not same_file(meant.setdefault(found[0], cell), cell):
                raise InputError(
                    f"{table.place(row)}: {cell!r} and {meant[found[0]]!r} can only be the file {found[0]}, so one of "
                    "them is missing. Give an --input with all files"
                )
        if missing and not self._reading.partial:
            raise InputError(
                f"{table.name} names {len(missing):,} files that do not exist below {self._store.root}: "
                f"{name_some(missing)}. If only a part was downloaded, say --partial; "
                "if the images lie elsewhere, give that folder as --input and this table as --table"
            )
        if not any(known.values()):
            raise InputError(f"{table.name} names no file that exists below {self._store.root}: {name_some(missing)}")
        return [known[cell] for cell in cells]

    def _left_out(self, paths: Sequence[str | None]) -> list[str]:
        named = {path for path in paths if path is not None}
        images = sum(not is_document(path) for path in self._entries)
        lines = []
        if absent := sum(path is None for path in paths):
            lines.append(f"{absent:,} of {len(paths):,} rows name files that are not there")
        if beside := images - len(named):
            lines.append(f"{beside:,} files that no row names were left out")
        return lines

    def _labels(
        self, table: Table, columns: dict[str, str]
    ) -> tuple[list[Labels | None], tuple[str, ...] | None, tuple[str, ...]]:
        """(labels of each row, None for a row to leave out; label names in order; lines for people)."""
        reading = self._reading
        names = [find_column(table, name, f"--label-columns {name}") for name in reading.label_columns]
        if len(set(names)) < len(names):
            raise InputError(f"--label-columns {','.join(reading.label_columns)}: a column is named twice")
        if not names and "label" not in columns and reading.label_pattern is None:
            free = [name for name in table.columns if name not in columns.values()]
            for name in free:
                if (odd := odd_cell(table.columns[name])) is not None:
                    row = table.columns[name].index(odd)
                    raise InputError(
                        f"{table.place(row)}: {name!r} is {odd!r}, where most rows have 0, 1 or -1 as for a label. "
                        "Mend it, or say which columns are labels: --label-columns A,B"
                    )
            names = [name for name in free if is_state_column(table.columns[name])]
            if len(names) < 2:
                raise InputError(
                    f"{table.name}: no column is named like a label; it has {', '.join(table.columns)}. Say which with "
                    "--columns label=NAME, or --label-columns A,B for one column a label"
                )
        if names:
            missing = reading.missing or "negative"
            uncertain = reading.uncertain or "ignore"
            doubtful, empty = count_states(table, names)
            lines = [f"labels from {len(names)} columns: {', '.join(names)}"]
            if doubtful:
                lines.append(f"{doubtful:,} uncertain labels (-1) {_counted_as(uncertain)}")
            if empty:
                lines.append(f"{empty:,} labels not mentioned {_counted_as(missing)}")
            return [*read_states(table, names, uncertain, missing)], tuple(names), tuple(lines)
        if reading.label_pattern is not None:
            return self._labels_of_paths(table, make_paths(table, columns["path"]))
        return self._labels_of_cells(table, columns["label"])

    def _labels_of_cells(self, table: Table, column: str) -> tuple[list[Labels | None], None, tuple[str, ...]]:
        reading = self._reading
        cells = table.columns[column]
        separator = "|" if reading.label_separator is None else reading.label_separator
        split = {cell: split_cell(cell, separator) for cell in dict.fromkeys(cells)}
        empty = [row for row, cell in enumerate(cells) if not split[cell]]
        several = any(len(labels) > 1 for labels in split.values())
        if empty and (reading.missing is None or (reading.missing == "negative" and not several)):
            choices = "are to be left out, --missing ignore"
            if several:
                choices = f"have none of the labels, --missing negative, or {choices}"
            raise InputError(
                f"{table.place(empty[0])}: there is no label, as in {len(empty):,} of {len(table):,} rows. Say whether "
                f"these images {choices}"
            )
        self._doubt_separator({label for labels in split.values() for label in labels}, separator)
        lines = [f"labels from the column '{column}'"]
        if empty:
            counted = "are left out" if reading.missing == "ignore" else "have none of the labels"
            lines.append(f"{len(empty):,} rows without a label {counted}")
        found: list[Labels | None] = []
        for cell in cells:
            left_out = not split[cell] and reading.missing == "ignore"
            found.append(None if left_out else Labels(split[cell]))
        return found, None, tuple(lines)

    def _labels_of_paths(self, table: Table, paths: Sequence[str]) -> tuple[list[Labels | None], None, tuple[str, ...]]:
        pattern = compile_pattern(str(self._reading.label_pattern), "--label-pattern")
        found: list[Labels | None] = []
        for path in paths:
            label = label_in(path, pattern)
            found.append(Labels((label,)) if label else None)
        lines = [f"labels from --label-pattern in the paths of {table.name}"]
        if left := found.count(None):
            lines.append(f"{left:,} rows that it does not match are left out")
        return found, None, tuple(lines)

    def _doubt_separator(self, names: Collection[str], separator: str) -> None:
        """Stops where labels hold a sign that joins labels, and share a part, or one is a label by itself."""
        if self._reading.label_separator is not None:
            return
        for sign in (",", ";", "/", "+"):
            parts_of = {name: {part.strip() for part in name.split(sign)} for name in names}
            shared = collections.Counter(part for parts in parts_of.values() for part in parts if part)
            for name in sorted(names):
                if len(parts_of[name]) > 1 and any(shared[part] > 1 for part in parts_of[name]):
                    raise InputError(
                        f"the label {name!r} looks like several joined by {sign!r}. If so, say --label-separator "
                        f"'{sign}'; if not, --label-separator '{separator}'"
                    )

    def _merge(
        self, table: Table, columns: Mapping[str, str], rows: Sequence[int], paths: Sequence[str | None],
        labels: Sequence[Labels | None],
    ) -> tuple[list[SourceImage], list[str]]:  # fmt: skip
        """One image for each path; what several rows say of one is merged."""
        facts = {role: table.columns[name] for role, name in columns.items() if role not in ("path", "label")}
        by_path: dict[str, list[int]] = collections.defaultdict(list)
        for row in rows:
            if labels[row] is not None:
                by_path[str(paths[row])].append(row)
        images, repeated, disagreeing = [], 0, []
        for path, same in by_path.items():
            said = [found for row in same if (found := labels[row]) is not None]
            first = said[0]
            if len(same) > 1:
                repeated += 1
                if any(set(other.present) != set(first.present) or other.unknown != first.unknown for other in said):
                    disagreeing.append(path)
                    first = merge_readers(said, self._reading.readers or "any")
            images.append(self._image(table, path, same, facts, first))
        lines = [f"{repeated:,} images appear in several rows"] if repeated else []
        if disagreeing:
            if self._reading.readers is None:
                lines_of = ", ".join(str(table.lines[row]) for row in by_path[disagreeing[0]])
                raise InputError(
                    f"{table.name}: {len(disagreeing):,} images appear in rows with different labels, "
                    f"{disagreeing[0]} the first (lines {lines_of}). Say how to merge them: "
                    "--readers any (has a label if one row says so), majority, or all"
                )
            lines.append(
                f"rows disagree about {len(disagreeing):,} images, {name_some(disagreeing[:2])} ...; "
                f"merged by --readers {self._reading.readers}"
            )
        return images, lines

    def _image(
        self, table: Table, path: str, rows: Sequence[int], facts: Mapping[str, list[str]], labels: Labels
    ) -> SourceImage:
        stated: dict[str, str] = {}
        for role, cells in facts.items():
            if len(rows) == 1:
                stated[role] = "" if cells[rows[0]].lower() in EMPTY else cells[rows[0]]
                continue
            values = {cell for row in rows if (cell := cells[row]).lower() not in EMPTY}
            if len(values) > 1 and role in ("patient", "split"):
                raise InputError(
                    f"{table.place(rows[0])}: {path} has the {role}s {' and '.join(sorted(values))} in different rows; "
                    "an image has one"
                )
            stated[role] = next(iter(sorted(values)), "")
        return SourceImage(
            path,
            *self._entries[path],
            labels.present,
            stated.get("split") or None,
            stated.get("patient") or None,
            stated.get("cause", "").lower() or None,
            labels.unknown,
            stated.get("view", "").upper(),
            to_age(stated.get("age", "")),
            to_sex(stated.get("sex", "")),
            stated.get("site", ""),
        )


def _counted_as(how: str) -> str:
    return {"ignore": "are unknown", "positive": "count as present", "negative": "count as absent"}[how]


def _open_table(store: Store, entries: Mapping[str, Entry], name: str) -> Table:
    """A table that an option names: a file, or one below the input, `#SHEET` for one of several."""
    path, _, sheet = name.partition("#")
    if Path(path).is_file():
        return read_table(path, sheet or None)
    if path in entries:
        return parse_table(path, store.read(path), sheet or None)
    tables = [entry for entry in entries if is_table(entry)]
    hint = nearest(path, tables) or (f"; below the input are {name_some(sorted(tables))}" if tables else "")
    raise InputError(f"--table {name}: there is no such file, here or below {store.root}{hint}")

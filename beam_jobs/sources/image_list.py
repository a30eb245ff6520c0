"""The images of an input, and what the input says of each: label, split, patient, and what else is known.

Three things say it: the folders that an image lies in (`structure.py`), tables (`image_table.py`), or a known layout,
which is a set of options for the other two (`known_layouts.py`). What was decided is described in a few lines, which
are shown before anything is written.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from beam_jobs.sources.file_finder import FileFinder
from beam_jobs.sources.image_facts import read_patterns, rename_all, settle_names, split_by_lists
from beam_jobs.sources.image_table import ImageTable
from beam_jobs.sources.known_layouts import AUTO, choose_layout
from beam_jobs.sources.reading import Reading, compile_pattern
from beam_jobs.sources.source_image import SourceImage
from beam_jobs.sources.stores import Entry, Store
from beam_jobs.sources.structure import Structure, read_folders, read_pattern
from cxr.errors import InputError
from cxr.tables import is_table, parse_table
from tfrecords.images.file_lists import is_document

_BESIDE_BYTES = 512 << 20
"""Size up to which a table that lies beside the images is read to see whether it names them."""
_NAMES_THEM = 0.5
"""Share of the images that a table has to name to be one about them."""


@dataclasses.dataclass(frozen=True)
class ImageList:
    """The images of an input.

    Attributes:
      images: all of them, in no particular order.
      described: what was decided, lines for people.
      label_names: in order, where the source has one; else None.
    """

    images: list[SourceImage]
    described: tuple[str, ...]
    label_names: tuple[str, ...] | None = None


def list_images(store: Store, given: Reading, layout: str = AUTO) -> ImageList:
    """Reads what an input says of its images.

    Args:
      store: the files.
      given: what a person says of how to read them.
      layout: `auto`, `none`, the name of a known layout or the path of a file of one.

    Raises:
      InputError: it cannot be read, or what its folders or columns mean is not certain; says which option settles it.
    """
    entries = store.entries()
    if not entries:
        raise InputError(
            f"the input {store.root} is empty; expected split/class/image or class/image files, or a table"
        )
    reading, recognised = choose_layout(layout, store, entries, given)
    if reading.exclude:
        left_out = re.compile(reading.exclude)
        entries = {path: entry for path, entry in entries.items() if not left_out.search(path)}
    if reading.table:
        images, described, label_names = ImageTable(store, entries, reading).read()
    else:
        (images, described), label_names = _from_folders(store, entries, reading), None
    images, patterns = read_patterns(images, reading)
    images, lists = split_by_lists(store, images, reading)
    images, names = settle_names(images, reading, store.root, label_names)
    if label_names:
        label_names = rename_all(label_names, reading)
    return ImageList(images, (*recognised, *described, *patterns, *lists, *names), label_names)


def _from_folders(
    store: Store, entries: Mapping[str, Entry], reading: Reading
) -> tuple[list[SourceImage], tuple[str, ...]]:
    if reading.label_pattern is not None:
        images = [path for path in entries if not is_document(path)]
        structure = read_pattern(images, store.root, compile_pattern(reading.label_pattern, "--label-pattern"))
    else:
        structure = read_folders(entries.keys(), store.root, reading.classes, reading.trusted)
        if reading.table is None and not reading.trusted:
            _refuse_ignored_tables(store, entries, structure)
    found = [SourceImage(path, *entries[path], (label,), split) for path, split, label in structure.images]
    return found, structure.described


def _refuse_ignored_tables(store: Store, entries: Mapping[str, Entry], structure: Structure) -> None:
    """Stops where a table beside the images is about them: it may hold labels, patients and splits."""
    inside = {image.path for image in structure.images}
    finder = None
    for path in sorted(entries):
        if path in inside or not is_table(path) or entries[path].bytes > _BESIDE_BYTES:
            continue
        try:
            table = parse_table(path, store.read(path))
        except InputError:
            continue
        finder = finder or FileFinder(inside)
        for column, cells in table.columns.items():
            named = {found for cell in set(cells) if cell for found in finder.find(cell)}
            if len(named) > _NAMES_THEM * len(inside):
                raise InputError(
                    f"{store.root}: the table {path} names {len(named):,} of the {len(inside):,} images in its column "
                    f"{column!r}, and its columns ({', '.join(table.columns)}) would be ignored. "
                    f"Use it with --table {path}, or say --table none"
                )

"""Facts of the images of an input, however these were listed: splits, patients, and names of labels and splits."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from beam_jobs.sources.file_finder import FileFinder
from beam_jobs.sources.label_cells import Labels, rename
from beam_jobs.sources.reading import Reading, compile_pattern
from beam_jobs.sources.source_image import SourceImage
from beam_jobs.sources.stores import Store, name_some
from beam_jobs.sources.structure import SPLIT_NAMES, check_alike, count_names, what_is_named
from cxr.errors import InputError
from cxr.options import nearest
from cxr.tables import read_table
from tfrecords.format.labels import is_normal

_ONE_PATIENT = 20
"""Images of one patient only from which on that patient is taken for a placeholder."""


def read_patterns(images: list[SourceImage], reading: Reading) -> tuple[list[SourceImage], list[str]]:
    """The images with the patients and splits that patterns find in their paths, where nothing else states them."""
    lines = []
    for field, flag, pattern in (
        ("patient", "--patient-pattern", reading.patient_pattern), ("split", "--split-pattern", reading.split_pattern)
    ):  # fmt: skip
        if pattern is None:
            continue
        compiled = compile_pattern(pattern, flag)
        changed = []
        for image in images:
            if getattr(image, field) is None:
                match = compiled.search(image.path)
                if match is None or match[1] is None:
                    raise InputError(f"{flag} {pattern!r} does not match {image.path}")
                image = dataclasses.replace(image, **{field: match[1]})  # type: ignore[arg-type]
            changed.append(image)
        images = changed
        lines.append(f"{field}s from {flag}")
    return images, lines


def split_by_lists(
    store: Store, images: list[SourceImage], reading: Reading
) -> tuple[list[SourceImage], tuple[str, ...]]:
    """The images with the splits that lists of file names give them."""
    if not reading.split_lists:
        return images, ()
    finder = FileFinder(image.path for image in images)
    splits: dict[str, str] = {}
    strangers = 0
    for split, name in reading.split_lists.items():
        place = Path(name)
        data = place.read_bytes() if place.is_file() else store.read(name)
        for line in data.decode("utf-8-sig", "replace").splitlines():
            if not line.strip():
                continue
            found = finder.find(line.strip())
            strangers += not found
            for path in found:
                if splits.setdefault(path, split) != split:
                    raise InputError(f"--split-lists: {path} is in the lists of {splits[path]} and {split}")
    without = [image.path for image in images if image.path not in splits]
    if without:
        raise InputError(f"--split-lists: {len(without):,} images are in no list, {name_some(without)}")
    counts = collections.Counter(splits.values())
    listed = [dataclasses.replace(image, split=splits[image.path]) for image in images]
    beside = f"; {strangers:,} of their lines name no image" if strangers else ""
    return listed, (f"splits from lists: {count_names(counts)}{beside}",)


def settle_names(
    images: list[SourceImage], reading: Reading, root: str, label_names: Collection[str] | None = None
) -> tuple[list[SourceImage], list[str]]:
    """Renames labels and splits, and stops where their names are not certain."""
    notes: list[str] = []
    names = _renaming(reading.rename_labels)
    if names:
        said = {label for image in images for label in (*image.labels, *image.unknown)}
        strange = [old for old in names if old not in said and old not in (label_names or ())]
        if strange and isinstance(reading.rename_labels, str):
            raise InputError(
                f"--rename-labels {reading.rename_labels}: there is no label {strange[0]!r}{nearest(strange[0], said)}"
            )
        images = [_with_labels(image, rename(Labels(image.labels, image.unknown), names)) for image in images]
    labels = collections.Counter(label for image in images for label in image.labels)
    unknown = collections.Counter(label for image in images for label in image.unknown)
    if not reading.trusted:
        named = set(reading.classes or ())
        check_alike([*labels, *unknown], root)
        for label in sorted({*labels} - named - set(names.values())):
            if what_is_named(label) in ("numbers", "nested values"):
                raise InputError(
                    f"the label {label!r} is a number, missing or a nested value, as {labels[label]:,} images have it. "
                    "Name it with --rename-labels FILE (from,to), or say that it is one: "
                    f"--classes {','.join(sorted(labels))}"
                )
    notes.append(f"labels: {count_names(labels, 20)}")
    torn = [image.path for image in images if len(image.labels) > 1 and any(map(is_normal, image.labels))]
    if torn:
        notes.append(f"{len(torn):,} images are normal and have findings too: {name_some(torn[:3])}")
    if unknown:
        notes.append(f"unknown: {count_names(unknown, 20)}")
    images, splits = _settle_splits(images, reading, root)
    if splits:
        notes.append(f"splits: {count_names(splits)}")
    images, patients = _settle_patients(images)
    return images, notes + patients


def _with_labels(image: SourceImage, labels: Labels) -> SourceImage:
    return dataclasses.replace(image, labels=labels.present, unknown=labels.unknown)


def _settle_splits(
    images: list[SourceImage], reading: Reading, root: str
) -> tuple[list[SourceImage], collections.Counter[str]]:
    if reading.new_splits:
        return [dataclasses.replace(image, split=None) for image in images], collections.Counter()
    found = collections.Counter(image.split for image in images if image.split)
    names: dict[str, str] = {}
    for name in found:
        known = reading.rename_splits.get(name) or SPLIT_NAMES.get(name.lower())
        if known is None:
            raise InputError(
                f"{root}: the split {name!r} of {found[name]:,} images is none of train, val, test and their usual "
                f"names; the splits are {count_names(found)}. Say what it is with --rename-splits {name}=val (or "
                "another name), or make new splits with --split patient"
            )
        names[name] = known
    if any(old != new for old, new in names.items()):
        images = [dataclasses.replace(image, split=names[image.split]) if image.split else image for image in images]
    return images, collections.Counter(image.split for image in images if image.split)


def _settle_patients(images: list[SourceImage]) -> tuple[list[SourceImage], list[str]]:
    """One key for ids that are the same number (`7`, `07`, `7.0`); no patient where all images have the same."""
    keys = {image.patient for image in images if image.patient}
    if len(keys) == 1 and len(images) >= _ONE_PATIENT and all(image.patient for image in images):
        (key,) = keys
        alone = [dataclasses.replace(image, patient=None) for image in images]
        return alone, [f"all {len(images):,} images have the patient {key!r}: it names nobody, and was ignored"]
    spellings: dict[str, set[str]] = collections.defaultdict(set)
    for key in keys:
        if re.fullmatch(r"\d+(\.0+)?", key):
            spellings[str(int(key.split(".")[0]))].add(key)
    several = {key: number for number, found in spellings.items() if len(found) > 1 for key in found}
    if not several:
        return images, []
    images = [
        dataclasses.replace(image, patient=several[image.patient]) if image.patient in several else image
        for image in images
    ]
    return images, [f"patients written in several ways ({name_some(sorted(several)[:3])}) are one by their number"]


def _renaming(given: str | Mapping[str, str] | None) -> dict[str, str]:
    """New names of labels by old ones, of a mapping or of a table with the columns `from` and `to`."""
    if not isinstance(given, str):
        return dict(given or {})
    table = read_table(given)
    columns = {name.casefold(): cells for name, cells in table.columns.items()}
    if not {"from", "to"} <= columns.keys():
        raise InputError(
            f"--rename-labels {given}: expected the columns from and to; received {', '.join(table.columns)}"
        )
    names: dict[str, str] = {}
    for row, (old, new) in enumerate(zip(columns["from"], columns["to"], strict=True)):
        if names.setdefault(old, new) != new:
            raise InputError(f"{table.place(row)}: {old!r} has two new names, {names[old]!r} and {new!r}")
    return names


def rename_all(label_names: Collection[str], reading: Reading) -> tuple[str, ...]:
    """The names of labels, in order, under their new names."""
    names = _renaming(reading.rename_labels)
    return tuple(dict.fromkeys(new for old in label_names if (new := names.get(old, old))))

"""What the folders of an input mean: which names the class, and which the split. Evidence decides, or nothing does.

The class is named by the first folder that differs between the images, or by the one below the splits. That is a guess,
and a wrong one where a download comes in numbered parts, a patient has a folder, or masks lie beside the images. So it
is held against everything that speaks against it, and where anything does, the job stops and says which option settles
the matter.
"""

from __future__ import annotations

import collections
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from beam_jobs.sources.reading import label_in
from beam_jobs.sources.stores import name_some
from cxr.errors import InputError
from tfrecords.images.file_lists import is_document

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validate": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Folder and table names that mean a split, in lower case, and the name it gets in the data set."""

NOT_CLASSES = {
    "parts of a download": r"(imgs?|images?|part|batch|chunk|folder|dir|zip|dis[ck]|vol(ume)?|(sub)?set)[ _-]*\d+"
    r"|p\d\d|.*\.(zip|tar)",
    "folds": r"(fold|cv|k)[ _-]*\d+",
    "splits": rf"(.*[ _-])?({'|'.join(SPLIT_NAMES)}|holdout|eval(uation)?|unlabel(l)?ed)"
    r"([ _-]?(set|data|images?|split))?",
    "patients or studies": r"(patient|pat|pt|subj?(ect)?|case|person|study|series|exam|id)[ _-]*\d+|[ps]\d{4,}|.*\^.*"
    r"|\d+(\.\d+){3,}",
    "dates": r"(19|20)\d\d[-_.]?\d\d[-_.]?\d\d",
    "kinds of files": r"images?|imgs?|pictures|segmentations?|annotations?|labels?|bbox(es)?|tiff?|bmp|16bit|8bit|"
    r"(.*[ _-])?(raw|originals?|processed|augmented|resized|png|jpe?g|jpegs|dicoms?|dcm|thumbnails?|heatmaps?|"
    r"overlays?|\w*masks?)",
    "views": r"frontal|lateral|pa|ap",
    "numbers": r"[-+]?\d+([.,]\d*)?|nan|none|null|n/?a|true|false|unknown",
    "nested values": r"[\[{(].*[\]})]",
}  # fmt: skip
"""What names of folders look like that are no classes: regular expressions for the whole name, in any case."""
_COMPILED = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in NOT_CLASSES.items()}
SETTLES = (
    "Say what names the label: --label-pattern REGEX for paths, --table FILE for a table, or --classes A,B if these "
    "folders are the classes"
)


class Placed(NamedTuple):
    """What the folders say of one image."""

    path: str
    split: str | None
    label: str


class Structure(NamedTuple):
    """How an input is laid out.

    Attributes:
      images: of every image that belongs to it, its split and label.
      described: how that was decided, a line or two for people.
    """

    images: list[Placed]
    described: tuple[str, ...]


def read_folders(
    paths: Collection[str], root: str, classes: Collection[str] | None = None, trusted: bool = False
) -> Structure:
    """Tells split and label of each image from `split/class/*` or `class/*` folders.

    Documents outside the class folders are left out and have no part in what the tree is taken for.

    Args:
      paths: of all files, relative to the input.
      root: the input, for messages.
      classes: label names that the user gave; folders of these names are classes whatever they look like.
      trusted: whoever wrote the folders meant `split/class/*`; nothing is doubted.

    Raises:
      InputError: the folders do not decide it; says what stands against it and which option settles it.
    """
    if not paths:
        raise InputError(f"the input {root} is empty; expected split/class/image or class/image files")
    images = [path for path in paths if not is_document(path)] or list(paths)
    depth = _common_depth(images)
    parts = {path: path.split("/")[depth:] for path in images}
    tops = {names[0] for names in parts.values()}
    has_splits = all(top.lower() in SPLIT_NAMES for top in tops)
    if not has_splits and any(top.lower() in SPLIT_NAMES for top in tops):
        others = sorted(top for top in tops if top.lower() not in SPLIT_NAMES)
        raise InputError(
            f"{root} has split folders beside {name_some(others)}; expected only splits, or only classes. "
            "With --label-pattern, files that it does not match are left out"
        )
    need = 3 if has_splits else 2
    stray = sorted(path for path, names in parts.items() if len(names) < need)
    if stray:
        raise InputError(
            f"{root}: expected {'split/class/image' if has_splits else 'class/image or split/class/image'} files, "
            f"received {name_some(stray)}, which {'lies' if len(stray) == 1 else 'lie'} in no class folder. "
            "Give the labels by --table FILE or --label-pattern REGEX"
        )
    shared = images[0].split("/")[:depth]
    for path in paths:
        names = path.split("/")
        if path in parts or names[:depth] != shared or len(names) < depth + need:
            continue
        if not has_splits or names[depth].lower() in SPLIT_NAMES:
            parts[path] = names[depth:]
    placed = [
        Placed(path, SPLIT_NAMES[names[0].lower()] if has_splits else None, names[need - 2])
        for path, names in parts.items()
    ]
    counts = collections.Counter(image.label for image in placed)
    if not trusted:
        if not (classes and set(counts) <= set(classes)):
            _doubt_names(root, counts)
        below = {path: names[need - 1 : -1] for path, names in parts.items()}
        _doubt_folders_below(root, placed, below)
    level = depth + need - 2
    described = [f"labels from the {ordinal(level + 1)} folder: {count_names(counts)}"]
    if has_splits:
        splits = collections.Counter(image.split or "" for image in placed)
        described.append(f"splits from the {ordinal(depth + 1)} folder: {count_names(splits)}")
    return Structure(placed, tuple(described))


def read_pattern(paths: Collection[str], root: str, pattern: re.Pattern[str]) -> Structure:
    """Tells the label of each image by a regular expression, which is searched in its path.

    The group `label`, or else the first one, is the label; a group `split` is the split. Files that it does not match
    are left out.

    Raises:
      InputError: it matches no file, or a split is none.
    """
    placed = []
    for path in paths:
        match, label = pattern.search(path), label_in(path, pattern)
        if match is None or label is None:
            continue
        split = match["split"] if "split" in pattern.groupindex else None
        placed.append(Placed(path, SPLIT_NAMES.get(split.lower(), split) if split else None, label))
    if not placed:
        raise InputError(f"--label-pattern {pattern.pattern!r} matches none of the {len(paths)} files of {root}")
    counts = collections.Counter(image.label for image in placed)
    left = len(paths) - len(placed)
    described = [f"labels from --label-pattern: {count_names(counts)}" + (f"; {left:,} files left out" if left else "")]
    if "split" in pattern.groupindex:
        splits = collections.Counter(image.split or "(none)" for image in placed)
        described.append(f"splits from --label-pattern: {count_names(splits)}")
    return Structure(placed, tuple(described))


def what_is_named(name: str) -> str | None:
    """The kind of thing, a key of `NOT_CLASSES`, that a folder of this name usually is; None for a class."""
    return next((kind for kind, pattern in _COMPILED.items() if pattern.fullmatch(name.strip())), None)


def check_alike(names: Iterable[str], where: str) -> None:
    """Refuses labels that differ in case, spaces or signs alone, such as `NORMAL` and `Normal`.

    Args:
      names: the labels.
      where: they come from, for the message.

    Raises:
      InputError: names them, and the option that makes them one.
    """
    alike: dict[str, list[str]] = collections.defaultdict(list)
    for name in sorted(set(names)):
        bare = re.sub(r"[\W_]+", "", unicodedata.normalize("NFC", name).casefold())
        sign = name.strip()[-1:] if name.strip()[-1:] in ("+", "-") else ""  # COVID+ is not COVID-
        alike[bare + sign or name].append(name)
    for found in alike.values():
        if len(found) > 1:
            raise InputError(
                f"the labels {' and '.join(map(repr, found))} of {where} differ in case, spaces or signs alone. Make "
                "them one with --rename-labels FILE, a table of `from,to`"
            )


def count_names(counts: Mapping[str, int], most: int = 12) -> str:
    """`NORMAL 1,341, PNEUMONIA 3,875`: names in order, with how often each appears."""
    shown = [f"{name} {counts[name]:,}" for name in sorted(counts)]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def ordinal(number: int) -> str:
    """`first`, `second`, ..."""
    words = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
    return words[number - 1] if number <= len(words) else f"{number}th"


def _common_depth(paths: Collection[str]) -> int:
    """How many leading folders all paths share, unless they are a split or the only class."""
    folders = [path.split("/")[:-1] for path in paths]
    depth = 0
    while all(len(names) > depth + 1 for names in folders):
        tops = {names[depth] for names in folders}
        if len(tops) > 1 or next(iter(tops)).lower() in SPLIT_NAMES:
            break
        depth += 1
    return depth


def _doubt_names(root: str, counts: Mapping[str, int]) -> None:
    """Refuses folders as classes that are named like something else."""
    kinds: dict[str, list[str]] = collections.defaultdict(list)
    for name in sorted(counts):
        if kind := what_is_named(name):
            kinds[kind].append(name)
    for kind, names in kinds.items():
        raise InputError(
            f"{root}: the folders that would be classes ({count_names(counts, 6)}) look like {kind}: "
            f"{name_some(names)}. {SETTLES}"
        )


def _doubt_folders_below(root: str, placed: Iterable[Placed], below: Mapping[str, list[str]]) -> None:
    """Refuses classes that folders below them split all alike, or into images and something else."""
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for image in placed:
        found[image.label].update(below[image.path][:1])
    for names in _split_alike(found):
        if all(what_is_named(name) in ("patients or studies", "numbers") for name in names):
            continue  # patients of the same number in every class
        listed = sorted(names)
        kinds = {what_is_named(name) for name in names}
        pattern = f"(?P<label>{'|'.join(map(re.escape, listed))})/"
        if kinds == {"splits"}:
            pattern = f"(?P<label>[^/]+)/(?P<split>{'|'.join(map(re.escape, listed))})/"
        elif kinds <= {"kinds of files", "views"}:
            pattern = f"(?P<label>[^/]+)/{re.escape(listed[0])}/"
        raise InputError(
            f"{root}: the folders {' and '.join(listed)} lie in more than one class ({name_some(sorted(found))}). "
            f"Which folder is the class, and are all of them X-rays? Choose by --label-pattern, for example "
            f"'{pattern}'; files that it does not match are left out"
        )


def _split_alike(found: Mapping[str, Mapping[str, int]]) -> Iterator[set[str]]:
    """The names of folders that appear below several classes, where a class has two or more of them."""
    times = collections.Counter(name for names in found.values() for name in names)
    common = {name for name, count in times.items() if count > 1}
    if any(len(common & set(names)) > 1 for names in found.values()):
        yield common

"""Finds the file that a cell of a table means: by path, by base name, with or without ending, whatever the slashes."""

from __future__ import annotations

import collections
import functools
import posixpath
import unicodedata
from collections.abc import Iterable


class FileFinder:
    """Looks files up by what tables say of them.

    A cell means the file whose path it is. Otherwise it means the file whose path it ends with (`/home/x/images/1.png`
    in a table that was made elsewhere), or that ends with it (`1.png` for `images_003/images/1.png`). If there is none,
    the same is tried without the files' endings. Unicode is compared in its composed form (NFC), and `\\` is `/`.

    Args:
      paths: of all files, with forward slashes.
    """

    def __init__(self, paths: Iterable[str]):
        self._exact: dict[str, str] = {}
        self._by_name: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
        for path in paths:
            known = tidy(path)
            self._exact[known] = path
            self._by_name[posixpath.basename(known)].append((known, path))

    @functools.cached_property
    def _by_stem(self) -> dict[str, list[tuple[str, str]]]:
        found: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
        for name, files in self._by_name.items():
            found[posixpath.splitext(name)[0]] += [(posixpath.splitext(known)[0], path) for known, path in files]
        return found

    def find(self, cell: str) -> tuple[str, ...]:
        """The files that a cell may mean, paths as they were given; several where nothing decides between them."""
        wanted = tidy(cell)
        if wanted in self._exact:
            return (self._exact[wanted],)
        name = posixpath.basename(wanted)
        fitting = [path for known, path in self._by_name.get(name, ()) if _ends_with(known, wanted)]
        return tuple(fitting or self._find_stem(name, wanted))

    def _find_stem(self, name: str, wanted: str) -> list[str]:
        return [path for known, path in self._by_stem.get(name, ()) if _ends_with(known, wanted)]


def tidy(cell: str) -> str:
    """A path in the form in which paths are compared."""
    path = cell if cell.isascii() else unicodedata.normalize("NFC", cell)
    path = path.replace("\\", "/")
    return posixpath.normpath(path) if "//" in path or "./" in path else path


def same_file(one: str, other: str) -> bool:
    """Whether two cells that mean one file are two spellings of it, such as `a/1.png` and `1`."""
    first, second = (posixpath.splitext(tidy(cell))[0] for cell in (one, other))
    return _ends_with(first, second)


def _ends_with(path: str, cell: str) -> bool:
    """Whether one of two paths ends with the whole of the other, folder by folder."""
    long, short = (path, cell.lstrip("/")) if len(path) > len(cell) else (cell, path)
    return long.endswith(short) and (len(long) == len(short) or long[-len(short) - 1] == "/")

"""Decoded and fitted images, kept in memory or on a local disk, so that later epochs do not decode again.

A cache is filled as images are first used, in any order and by any number of threads and, on disk, processes.
Each image stands by itself: on disk it counts only with the CRC32C of its pixels beside it, so a cache that was
half written, cut off or damaged is completed or mended image by image. Its place is named by everything that
the pixels depend on, so another data set or option never meets it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import blake3
import google_crc32c
import numpy as np

from cxr.console import format_bytes
from cxr.errors import OutputError
from cxr.files import write_json
from cxr.machine import available_memory
from tfrecords.streaming.buffers import aligned_empty

CacheMode = Literal["auto", "memory", "disk", "none"]
CACHE_MODES: tuple[str, ...] = get_args(CacheMode)
_MEMORY_SHARE = 0.5
"""Share of the memory that is available which a cache chosen by `auto` may take."""
_DISK_MARGIN = 1.1
PIXELS_NAME = "pixels.bin"
_VERSION = 1
"""Raised whenever fitting gives other pixels."""


class PixelCache:
    """Pixels of n images of known shapes, by row. This one keeps nothing."""

    kind = "none"
    """`memory`, `disk` or `none`."""

    def read(self, row: int, out: np.ndarray) -> bool:
        """Copies an image into `out`, of its shape and dtype, in C order; False where it is not there."""
        return False

    def write(self, row: int, pixels: np.ndarray) -> None:
        """Keeps an image."""

    def read_batch(self, rows: np.ndarray, out: np.ndarray) -> bool:
        """Copies images of one shape into `out` [len(rows), ...] at once; False where one may not be there."""
        return False


class MemoryCache(PixelCache):
    """Keeps images in this process; memory is taken as they come."""

    kind = "memory"

    def __init__(self, starts: np.ndarray):
        """Reserves address space.

        Args:
          starts: int64 [n + 1]: image i has the bytes [starts[i], starts[i + 1]).
        """
        self._starts = starts
        self._bytes = aligned_empty(int(starts[-1]))
        self._ready = np.zeros(len(starts) - 1, bool)
        sizes = np.unique(np.diff(starts))
        self._table = self._bytes.reshape(-1, int(sizes[0])) if len(sizes) == 1 else None

    def read(self, row: int, out: np.ndarray) -> bool:
        if not self._ready[row]:
            return False
        _as_bytes(out)[:] = self._bytes[self._starts[row] : self._starts[row + 1]]
        return True

    @property
    def missing_bytes(self) -> int:
        """Memory that is still to be taken."""
        return int(np.diff(self._starts)[~self._ready].sum())

    def has(self, rows: np.ndarray) -> bool:
        """Whether all these images are there."""
        return bool(self._ready[rows].all())

    def table(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """All images, [n, *shape], where that is the shape of each; arbitrary where one is not there."""
        return self._bytes.view(dtype).reshape(-1, *shape)

    def write(self, row: int, pixels: np.ndarray) -> None:
        self._bytes[self._starts[row] : self._starts[row + 1]] = _as_bytes(pixels)
        self._ready[row] = True

    def read_batch(self, rows: np.ndarray, out: np.ndarray) -> bool:
        if self._table is None or not self.has(rows):
            return False
        # "clip" because "raise", the default, copies once more through a buffer
        np.take(self._table, rows, axis=0, out=_as_bytes(out).reshape(len(rows), -1), mode="clip")
        return True


class DiskCache(PixelCache):
    """Keeps images in `pixels.bin`, and the CRC32C of each in `checks.bin`, 0 where it has not come yet.

    Several processes may share the folder: who writes an image writes the same bytes as any other.
    """

    kind = "disk"

    def __init__(self, folder: Path, starts: np.ndarray, about: dict):
        """Opens a cache, or makes one.

        Args:
          folder: of this cache alone.
          starts: int64 [n + 1]: image i has the bytes [starts[i], starts[i + 1]).
          about: what is in it, for people who find the folder.

        Raises:
          OutputError: the folder cannot be written.
        """
        self._folder, self._starts = folder, starts
        self._full = False
        self._checked = np.zeros(len(starts) - 1, bool)
        """Images whose CRC this process has seen to be right, or which it wrote."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "about.json", about)
            self._pixels = _open_sized(folder / PIXELS_NAME, int(starts[-1]))
            weakref.finalize(self, os.close, self._pixels)
            self._checks = _open_sized(folder / "checks.bin", 4 * (len(starts) - 1))
            weakref.finalize(self, os.close, self._checks)
        except OSError as error:
            raise OutputError(
                f"cannot write the image cache {folder}: {error.strerror}; choose another place (CXR_CACHE_DIR, "
                "cache_dir=) or cache='none'"
            ) from error

    def read(self, row: int, out: np.ndarray) -> bool:
        """An image that does not match its CRC is not there."""
        view = _as_bytes(out)
        if self._checked[row]:
            return self._pread(row, view)
        try:
            stored = os.pread(self._checks, 4, 4 * row)
        except OSError:
            return False
        if not any(stored) or not self._pread(row, view):
            return False
        self._checked[row] = _checksum(view) == stored
        return bool(self._checked[row])

    def _pread(self, row: int, view: np.ndarray) -> bool:
        try:
            return os.preadv(self._pixels, [view], int(self._starts[row])) == view.size  # type: ignore[list-item]
        except OSError:  # what the cache cannot give is decoded
            return False

    def write(self, row: int, pixels: np.ndarray) -> None:
        """On a full disk it warns once and keeps what it has."""
        if self._full:
            return
        view = _as_bytes(pixels)
        try:
            done = os.pwrite(self._pixels, view, int(self._starts[row]))  # type: ignore[arg-type]
            if done == view.size and os.pwrite(self._checks, _checksum(view), 4 * row) == 4:
                self._checked[row] = True
                return
            reason = "the disk is full"
        except OSError as error:
            reason = str(error.strerror)
        self._full = True
        warnings.warn(f"the image cache {self._folder} cannot store more: {reason}; continuing without", stacklevel=2)

    def read_batch(self, rows: np.ndarray, out: np.ndarray) -> bool:
        return bool(self._checked[rows].all()) and all(
            self._pread(int(row), _as_bytes(image)) for row, image in zip(rows, out, strict=True)
        )


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(-1).view(np.uint8)


def _checksum(view: np.ndarray) -> bytes:
    """CRC32C as 4 bytes that are never all zero."""
    return (google_crc32c.value(view.tobytes()) or 1).to_bytes(4, "little")


def _open_sized(path: Path, size: int) -> int:
    """Opens a file for reading and writing, at its size; a file of another size begins anew."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # another process may be doing the same, and have begun to write
        found = os.fstat(descriptor).st_size
        if found not in (0, size):
            os.ftruncate(descriptor, 0)
        if found != size:
            os.ftruncate(descriptor, size)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def default_cache_dir() -> Path:
    """Where disk caches go: $CXR_CACHE_DIR, else `cxr-stream` in the user's cache folder."""
    chosen = os.environ.get("CXR_CACHE_DIR")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cxr-stream"


def cache_key(**what: object) -> str:
    """32 hex digits that stand for everything the pixels depend on."""
    return blake3.blake3(json.dumps({"version": _VERSION, **what}, sort_keys=True).encode()).hexdigest()[:32]


_OPEN: weakref.WeakValueDictionary[Path, MemoryCache | DiskCache] = weakref.WeakValueDictionary()
"""Caches in use in this process, by folder and key, a memory cache below `_MEMORY`: streams over the same pixels share
one, and it goes with the last of them."""
_MEMORY = Path("memory")
_KEPT: list[list[PixelCache]] = []
"""What each `keep_images` that is entered holds."""


@contextlib.contextmanager
def keep_images() -> Iterator[None]:
    """Inside, caches outlive their streams: for work that makes one stream after another over the same images."""
    kept: list[PixelCache] = []
    _KEPT.append(kept)
    try:
        yield
    finally:
        _KEPT[:] = [other for other in _KEPT if other is not kept]


def open_cache(kind: str, key: str, starts: np.ndarray, folder: Path, about: dict) -> PixelCache:
    """The cache of that kind, shared with whoever has it open.

    Args:
      kind: `memory`, `disk` or `none`.
      key: of `cache_key`.
      starts: int64 [n + 1], see `MemoryCache`.
      folder: below which disk caches lie.
      about: see `DiskCache`.

    Raises:
      OutputError: the memory or the disk cannot hold it.
    """
    if kind == "none":
        return PixelCache()
    place = (_MEMORY if kind == "memory" else folder) / key
    cache = _OPEN.get(place)
    if cache is None:
        try:
            cache = MemoryCache(starts) if kind == "memory" else DiskCache(place, starts, about)
        except MemoryError as error:
            raise OutputError(
                f"cache='memory' needs {format_bytes(int(starts[-1]))} of memory; use cache='disk' or 'none', "
                "or a smaller image_size"
            ) from error
        _OPEN[place] = cache
    for kept in _KEPT:
        kept.append(cache)
    return cache


def choose_cache(needed: int, stored: int, decoding: bool, epochs: int | None, key: str, folder: Path) -> str:
    """What `cache="auto"` comes to.

    Memory where the fitted images take at most half of what is available. Else the disk, for more than one pass,
    where it has room and the cache reads markedly faster than the records themselves: because they would have to
    be decoded, or are at least twice as large. Else nothing.

    Args:
      needed: bytes of the fitted images.
      stored: bytes of their records.
      decoding: whether records hold JPEG or PNG files.
      epochs: passes over the data in one stream, None for endless. One stream may be used again and again.
      key: of the cache; one that is open in this process is used in any case.
      folder: below which disk caches lie.
    """
    if _MEMORY / key in _OPEN or fits_memory(needed):
        return "memory"
    if epochs == 1 or not (decoding or stored >= 2 * needed):
        return "none"
    room = _free_disk(folder) + _taken(folder / key / PIXELS_NAME)
    return "disk" if needed * _DISK_MARGIN <= room else "none"


def fits_memory(needed: int) -> bool:
    """Whether so many bytes are at most the share of memory that `auto` takes, after what open caches will take."""
    promised = sum(cache.missing_bytes for cache in _OPEN.values() if isinstance(cache, MemoryCache))
    return needed <= _MEMORY_SHARE * (available_memory() - promised)


def _taken(path: Path) -> int:
    """Bytes on disk of a file that may not be there; a cache's files are as long as they will ever be, with holes."""
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def _free_disk(folder: Path) -> int:
    """Bytes free where `folder` is, or would be made."""
    for place in (folder, *folder.parents):
        if place.exists():
            return shutil.disk_usage(place).free if os.access(place, os.W_OK) else 0
    return 0

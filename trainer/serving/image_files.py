"""Image files for a model: which files a command line names, and their pixels as a stream would give them."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cxr.errors import CxrError, InputError
from cxr.tables import TABLE_SUFFIXES, Table, is_table, read_table
from tfrecords.format.choices import smallest_sufficient
from tfrecords.format.shards import MANIFEST_NAME
from tfrecords.images import codec
from tfrecords.images.decode import DEFAULT_MAX_PIXELS, decode
from tfrecords.images.file_lists import is_document, is_utf8, walk_files
from trainer.facts import DataFacts
from trainer.train_config import TrainConfig


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """A file to read.

    Attributes:
      name: as the user knows it: the argument, below a folder that folder and the path in it, in a table the cell.
      path: to open.
    """

    name: str
    path: str


def list_image_files(inputs: Sequence[str], images_root: str | None = None) -> list[ImageFile]:
    """The image files that a command line names, in its order; a file named twice is there twice.

    Args:
      inputs: files; folders, looked through wholly and sorted by path, without documents and what operating systems
        leave about; tables with a column `path`.
      images_root: what the paths of tables are relative to; None is the table's own folder.

    Raises:
      InputError: one does not exist, cannot be read or is a data set; or there is no image file at all.
    """
    found: list[ImageFile] = []
    documents = 0
    tables = {given for given in inputs if is_table(given) and not Path(given).is_dir()}
    if images_root is not None and not tables:
        raise InputError(
            f"--images-root {images_root}: only a table ({', '.join(TABLE_SUFFIXES)}) has paths to look for there"
        )
    for given in inputs:
        if not is_utf8(given):
            raise InputError(f"the name of {os.fsencode(given)!r} is not UTF-8 text; rename it")
        if not Path(given).exists():
            raise InputError(f"{given} does not exist; expected an image file, a folder, or a table")
        if given in tables:
            root = Path(given).parent if images_root is None else Path(images_root)
            found += [ImageFile(path, str(root / path)) for path in _paths_of(read_table(given))]
        elif Path(given).is_dir():
            if Path(given, MANIFEST_NAME).exists():
                raise InputError(
                    f"{given} is a data set, not a folder of images; `cxr evaluate --data {given}` reads it"
                )
            below = sorted(path for path, _, _ in walk_files(given))
            names = [str(Path(given, path)) for path in below if not is_document(path)]
            documents += len(below) - len(names)
            found += [ImageFile(name, name) for name in names]
        else:
            found.append(ImageFile(given, given))
    if not found:
        beside = f", but {documents} documents such as .txt and .csv, which are ignored" if documents else ""
        raise InputError(f"no image in {', '.join(inputs) or 'an empty command line'}{beside}")
    return found


def _paths_of(table: Table) -> list[str]:
    """The cells of the column `path` of a table, in any case; raises InputError where there is none, or it is empty."""
    column = next((name for name in table.columns if name.casefold() == "path"), None)
    if column is None:
        raise InputError(f"{table.name}: the column path is missing; it has {', '.join(table.columns)}")
    for row, path in enumerate(table.columns[column]):
        if not path:
            raise InputError(f"{table.place(row)}: the path is empty")
    return table.columns[column]


@dataclasses.dataclass(frozen=True)
class FileLoader:
    """Reads, decodes and fits image files exactly as preprocessing and a stream do together.

    Attributes:
      config: of the run: size and how to fit.
      facts: of the run: channels and bit depth.
      max_pixels: limit on width x height.
      through_rung: take an image to the rung that training read first, and fit it from there, so that a file equals
        the record that training saw; otherwise fit it from full resolution.
    """

    config: TrainConfig
    facts: DataFacts
    max_pixels: int = DEFAULT_MAX_PIXELS
    through_rung: bool = True

    @property
    def rung(self) -> int | None:
        """Short side, pixels, of the rung whose records are equalled; None is full resolution."""
        if not self.through_rung or self.config.size is None:
            return None
        return smallest_sufficient(self.facts.rungs, self.config.size)

    def read(self, file: ImageFile) -> np.ndarray:
        """Pixels of a file, see `decode`; raises InputError where it cannot be read."""
        try:
            data = Path(file.path).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise InputError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
        return self.decode(data)

    def decode(self, data: bytes) -> np.ndarray:
        """Pixels of the bytes of a file: uint8 or uint16 [height, width, channels] as the run's model takes them.

        An image of 8 bits is raised to the 16 of a data set (x 257), as preprocessing does. One of 16 bits, which no
        data set of 8 bits holds, is rounded to 8 (/ 257). Then grey and colour are matched, and the image is fitted.

        Raises:
          ImageError: it is not an image of a supported format, damaged, or too large.
          MissingExtraError: it is DICOM, and a package for that is not installed.
        """
        from tfrecords.images.fit import fit

        pixels = codec.raise_depth(decode(data, self.max_pixels, self.facts.scale).pixels, self.facts.bit_depth)
        if self.facts.bit_depth == 8:
            pixels = codec.lower_depth(pixels)
        if self.rung is not None:
            pixels = codec.area_downscale(pixels, self.rung)
        pixels = np.ascontiguousarray(codec.match_channels(pixels, self.facts.channels))
        if self.config.size is None:
            return pixels
        fitted = np.empty((*self.config.size, self.facts.channels), pixels.dtype)
        fit(pixels, fitted, self.config.fit)  # type: ignore[arg-type]
        return fitted


def read_ahead(
    files: Sequence[ImageFile], load: Callable[[ImageFile], np.ndarray], threads: int, ahead: int
) -> Generator[tuple[ImageFile, np.ndarray | str]]:
    """Yields each file, in order, with what `load` makes of it in threads, or what is wrong with it.

    At most `ahead` results are held ready, which bounds the memory.
    """

    def attempt(file: ImageFile) -> np.ndarray | str:
        try:
            return load(file)
        except CxrError as error:
            return str(error)
        except MemoryError:
            return "memory does not suffice to decode it"

    pool = ThreadPoolExecutor(threads)
    waiting: collections.deque[tuple[ImageFile, Future[np.ndarray | str]]] = collections.deque()
    try:
        for file in files:
            waiting.append((file, pool.submit(attempt, file)))
            if len(waiting) > ahead:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:  # also where whoever reads has gone
        pool.shutdown(cancel_futures=True)

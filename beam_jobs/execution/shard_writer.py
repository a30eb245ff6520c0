"""One shard, from reading its images to the renamed files of every rung. Plain functions; no Beam here."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import functools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import blake3
import cv2
import numpy as np

from beam_jobs.execution.rings import ring_of, write_rings
from beam_jobs.planning.plan import PlannedImage, ShardPlan
from beam_jobs.sources.stores import Store
from cxr.errors import ImageError, OutputError
from cxr.files import temporary_name
from tfrecords.format.framing import RecordWriter, hash_file
from tfrecords.format.manifest import Shard
from tfrecords.format.schema import Record, RecordSchema
from tfrecords.format.shard_index import IndexWriter
from tfrecords.format.shards import FULL_RUNG, index_path, rung_name, shard_path
from tfrecords.images import codec
from tfrecords.images.decode import DecodedImage, decode
from tfrecords.images.scale import FULL

READERS = 2
"""Threads of a worker that wait for the source. One more thread decodes, and the worker's own writes: with
two that decode, storing raw pixels was measured a quarter slower, for they contend for memory."""
LOOK_AHEAD = 4
LOOK_AHEAD_PIXELS = 50_000_000
"""Images read and decoded ahead of the one being written, in number and in pixels; bounds a worker's memory."""
BUFFER_BYTES = 1 << 14
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclasses.dataclass(frozen=True)
class ShardSettings:
    """What a worker needs to know to write any shard of a job.

    Attributes:
      build: directory that the rungs' folders are made in.
      results: directory of the shard results.
      name: data set name.
      encoding: `source`, `png` or `raw`, of the full images.
      sizes: short sides of the smaller rungs, pixels.
      rung_encoding: `png` or `raw`.
      bit_depth: 8 or 16; images of 8 bits are raised to 16 by x 257.
      multi_label: records hold any number of labels.
      labels: number of label names.
      max_pixels: limit on width x height.
      unknown_labels: records say which labels are not known.
      groups: those of `schema.GROUPS` that records have.
      scale: bits that the white of 16-bit images has, see `tfrecords.images.scale`.
    """

    build: str
    results: str
    name: str
    encoding: str
    sizes: tuple[int, ...]
    rung_encoding: str
    bit_depth: int
    multi_label: bool
    labels: int
    max_pixels: int
    unknown_labels: bool = False
    groups: tuple[str, ...] = ()
    scale: int = FULL

    @functools.cached_property
    def rungs(self) -> dict[str, tuple[int | None, str]]:
        """(size, encoding) of every rung, full resolution first."""
        smaller = {rung_name(size): (size, self.rung_encoding) for size in self.sizes}
        return {FULL_RUNG: (None, self.encoding), **smaller}

    @functools.cached_property
    def schemas(self) -> dict[str, RecordSchema]:
        """The feature table of every rung."""
        return {
            rung: RecordSchema(encoding == "raw", self.multi_label, self.unknown_labels, self.groups)
            for rung, (_, encoding) in self.rungs.items()
        }


@dataclasses.dataclass(frozen=True)
class WrittenImage:
    """What became known of an image by decoding it.

    Attributes:
      path: in the source.
      height, width, channels: of the pixels, upright.
      pixel_hash: see `tfrecords.images.codec.hash_pixels`.
      mean: of the pixels, in [0, 1] of full scale.
      variance: of the pixels, in the same unit squared.
      encoding: `jpeg`, `png` or `raw`, of the full image.
      repaired: what was wrong with the file and mended, see `DecodedImage.repaired`.
    """

    path: str
    height: int
    width: int
    channels: int
    pixel_hash: str
    mean: float
    variance: float
    encoding: str
    repaired: str = ""


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """A finished shard.

    Attributes:
      made_from: fingerprint of the plan and the settings.
      files: by rung.
      images: those in it, in order.
      rejects: (path, reason) of those left out.
      rings_bytes, rings_blake3: size and checksum of the file at `rings_path`, the outer ring of each of `images`.
    """

    made_from: str
    files: dict[str, Shard]
    images: tuple[WrittenImage, ...]
    rejects: tuple[tuple[str, str], ...]
    rings_bytes: int
    rings_blake3: str

    def to_json(self) -> str:
        """The result as JSON."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ShardResult:
        """The result that `to_json` wrote."""
        fields = json.loads(text)
        return cls(
            fields["made_from"],
            {rung: Shard(**shard) for rung, shard in fields["files"].items()},
            tuple(WrittenImage(**image) for image in fields["images"]),
            tuple((path, reason) for path, reason in fields["rejects"]),
            fields["rings_bytes"],
            fields["rings_blake3"],
        )


def result_path(settings: ShardSettings, plan: ShardPlan) -> Path:
    """Where a shard's result lies; it is written after the shard's files are in place."""
    return Path(settings.results, f"{plan.split}-{plan.index:05d}.json")


def rings_path(settings: ShardSettings, plan: ShardPlan) -> Path:
    """Where the outer rings of a shard's images lie, beside its result."""
    return result_path(settings, plan).with_suffix(".rings.npy")


def read_finished(settings: ShardSettings, plan: ShardPlan, every_byte: bool = False) -> ShardResult | None:
    """The result of a shard that is finished, made from this very plan, and whose files are there in full.

    Args:
      settings, plan: of the shard.
      every_byte: hold the files to their checksums as well as to their sizes: after a power cut a file may
        have its size and not its content.

    Returns:
      The result, or None where the shard has to be written.
    """
    try:
        result = ShardResult.from_json(result_path(settings, plan).read_text(encoding="utf-8"))
        paths = shard_paths(settings, plan)
        if result.made_from != _fingerprint(settings, plan) or paths.keys() != result.files.keys():
            return None
        files = [(rings_path(settings, plan), result.rings_bytes, result.rings_blake3)]
        for rung, path in paths.items():
            shard = result.files[rung]
            files.append((path, shard.bytes, shard.blake3))
            files.append((index_path(path), shard.index_bytes, shard.index_blake3))
        for file, size, checksum in files:
            if file.stat().st_size != size or (every_byte and hash_file(file) != checksum):
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result


def write_shard(
    settings: ShardSettings, plan: ShardPlan, source: Store, report: Callable[[int, int], None]
) -> ShardResult:
    """Writes one shard and its index in every rung, unless it is finished already.

    The files are written under temporary names and renamed when whole; the rings and then the result come last.
    What a run writes is a function of its arguments alone, so a second worker on the same shard does no harm.

    Args:
      settings, plan: of the shard.
      source: to read images from.
      report: called with (images, source bytes) as they are done.

    Raises:
      OutputError: the disk is full or cannot be written.
    """
    cv2.setNumThreads(1)  # the workers are the parallelism
    if finished := read_finished(settings, plan):
        report(len(plan.images), sum(image.bytes for image in plan.images))
        return finished
    paths = shard_paths(settings, plan)
    target = result_path(settings, plan)
    temporary = {path: temporary_name(path) for shard in paths.values() for path in (shard, index_path(shard))}
    unfinished = temporary_name(target)
    images: list[WrittenImage] = []
    rings: list[np.ndarray] = []
    rejects: list[tuple[str, str]] = []
    try:
        with contextlib.ExitStack() as stack:
            writers = {}
            for rung, path in paths.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                # a buffer for the few bytes of framing; images are larger and go past it uncopied
                file = stack.enter_context(open(temporary[path], "wb", buffering=BUFFER_BYTES))
                writers[rung] = (
                    RecordWriter(file),
                    IndexWriter(settings.labels if settings.multi_label else None, settings.groups),
                )
            for image, prepared in _prepare_ahead(settings, plan, source):
                if isinstance(prepared, ImageError):
                    rejects.append((image.path, str(prepared)))
                else:
                    written, payloads, ring = prepared
                    images.append(written)
                    rings.append(ring)
                    for rung, (record, span, payload) in payloads.items():
                        shard, index = writers[rung]
                        index.add(record, span, shard.write(payload))
                report(1, image.bytes)
        files = {}
        for rung, (shard, index) in writers.items():
            with open(temporary[index_path(paths[rung])], "wb") as file:
                beside = index.write(file, shard.checksum)
            files[rung] = Shard(shard.records, shard.bytes, shard.checksum, beside.bytes, beside.checksum)
        for path, written_path in temporary.items():
            written_path.replace(path)
        kept = write_rings(rings_path(settings, plan), rings)
        result = ShardResult(_fingerprint(settings, plan), files, tuple(images), tuple(rejects), *kept)
        unfinished.write_text(result.to_json(), encoding="utf-8")
        unfinished.replace(target)
    except OSError as error:
        where = f"{paths[FULL_RUNG].name} below {settings.build}"
        if error.errno in _NO_SPACE:
            raise OutputError(
                f"the disk is full: {os.strerror(error.errno)} while writing {where}. "
                "Free some space and run the same command again: finished shards are kept."
            ) from error
        raise OutputError(f"cannot write {where}: {error.strerror or error}") from error
    finally:
        for path in (*temporary.values(), unfinished):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    return result


def _fingerprint(settings: ShardSettings, plan: ShardPlan) -> str:
    """BLAKE3 of all that a shard's bytes depend on, but for the files' content; their time stamps are in the plan."""
    what = dataclasses.replace(settings, build="", results="")
    return blake3.blake3(f"{what}{plan.to_json()}".encode()).hexdigest()


def shard_paths(settings: ShardSettings, plan: ShardPlan) -> dict[str, Path]:
    """Where the files of a shard lie, by rung."""
    return {
        rung: shard_path(Path(settings.build), rung, settings.name, plan.split, plan.index, plan.count)
        for rung in settings.rungs
    }


Prepared = tuple[WrittenImage, dict[str, tuple[Record, tuple[int, int], bytes]], np.ndarray]
"""What became known of an image; by rung, its record without the image, where the data holds it, and the data; its
outer ring."""


def _prepare_ahead(
    settings: ShardSettings, plan: ShardPlan, source: Store
) -> Iterator[tuple[PlannedImage, Prepared | ImageError]]:
    """Yields the images of a shard in order, read and prepared by threads a few images ahead."""
    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(1) as preparer:
        waiting: collections.deque[tuple[PlannedImage, Future[Prepared | ImageError]]] = collections.deque()
        for image in plan.images:
            data = readers.submit(source.read, image.path)
            waiting.append((image, preparer.submit(_prepare, settings, image, data)))
            if len(waiting) > LOOK_AHEAD or sum(ahead.pixels for ahead, _ in waiting) > LOOK_AHEAD_PIXELS:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


def _prepare(settings: ShardSettings, image: PlannedImage, read: Future[bytes]) -> Prepared | ImageError:
    """Decodes, checks, downscales and serializes one image that is being read."""
    try:
        data = read.result()
        decoded = decode(data, settings.max_pixels, settings.scale)
    except ImageError as error:
        return error
    pixels = codec.raise_depth(decoded.pixels, settings.bit_depth)
    payloads = {}
    records: list[Record] = []
    for rung, (size, encoding) in settings.rungs.items():
        shown = pixels if size is None else codec.area_downscale(pixels, size)
        stored, stored_as = _store(shown, encoding, decoded, data, pixels)
        height, width, channels = shown.shape
        record = Record(
            image=stored, encoding=stored_as, height=height, width=width, channels=channels,
            bit_depth=settings.bit_depth, label=image.labels if settings.multi_label else image.labels[0],
            cause=image.cause, patient=image.patient, path=image.path,
            pixel_hash=records[0].pixel_hash if records and shown is pixels else codec.hash_pixels(shown),
            unknown=image.unknown, **dict(zip(settings.groups, image.groups, strict=True)),
        )  # fmt: skip
        records.append(record)
        payload = settings.schemas[rung].serialize(record)
        span = settings.schemas[rung].image_span(record, len(payload))
        payloads[rung] = dataclasses.replace(record, image=b""), span, payload
    full, statistics = records[0], codec.pixel_statistics(pixels)
    about = image.path, full.height, full.width, full.channels, full.pixel_hash
    return WrittenImage(*about, *statistics, full.encoding, decoded.repaired), payloads, ring_of(decoded.pixels)


def _store(
    shown: np.ndarray, encoding: str, decoded: DecodedImage, data: bytes, pixels: np.ndarray
) -> tuple[bytes, str]:
    """(bytes, encoding) to store pixels with; the source's own file where `encoding` and the file allow it."""
    if encoding == "source":
        if decoded.keepable and pixels.dtype == decoded.pixels.dtype:
            return data, decoded.keepable
        encoding = "png"
    return codec.encode(shown, encoding), encoding

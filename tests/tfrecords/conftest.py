"""Small data sets, made by hand from the contract's own pieces and nothing of the Beam job."""

from __future__ import annotations

import collections
import dataclasses
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import blake3
import numpy as np
import pytest
from PIL import Image

from cxr.files import write_atomically
from tfrecords.format.framing import RecordWriter
from tfrecords.format.manifest import (
    ImageEntry,
    Manifest,
    Rung,
    Shard,
    Split,
    combine_statistics,
    fingerprint,
    more_of,
    size_histogram,
)
from tfrecords.format.schema import Record
from tfrecords.format.shard_index import IndexWriter
from tfrecords.format.shards import (
    AUDIT_NAME,
    AUDIT_PAGE_NAME,
    FULL_RUNG,
    MANIFEST_NAME,
    REJECTS_NAME,
    index_path,
    rung_name,
)
from tfrecords.format.tfds_metadata import write_tfds_metadata
from tfrecords.images import codec

LABELS = ("NORMAL", "PNEUMONIA", "Ödem")
SHARDS = {"train": (3, 2), "val": (2,)}


def draw(seed: int, height: int, width: int, channels: int = 1, bit_depth: int = 8) -> np.ndarray:
    """A picture with gradients, edges and noise in every channel: uint8 or uint16 [height, width, channels]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    planes = []
    for channel in range(channels):
        wave = np.sin(columns / (3 + channel) + seed) + np.cos(rows / (5 + channel))
        disc = ((rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(height, width) / 3) ** 2) * 1.5
        planes.append(wave + disc + rng.normal(0, 0.1, (height, width)))
    picture = np.stack(planes, axis=-1)
    picture = (picture - picture.min()) / np.ptp(picture)
    full = 2**bit_depth - 1
    return np.round(picture * full).astype(np.uint16 if bit_depth == 16 else np.uint8)


def to_jpeg(pixels: np.ndarray, **options) -> bytes:
    """A JPEG file, by Pillow."""
    file = io.BytesIO()
    picture = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    Image.fromarray(picture).save(file, "JPEG", **{"quality": 85, **options})
    return file.getvalue()


@dataclasses.dataclass(frozen=True)
class Made:
    """A data set on disk, and what a reader of it must get: (record, pixels) by rung and split, in order."""

    root: Path
    manifest: Manifest
    expected: dict[str, dict[str, list[tuple[Record, np.ndarray]]]]

    def shard(self, split: str = "train", index: int = 0, rung: str = FULL_RUNG) -> Path:
        return self.manifest.shard_paths(self.root, rung, split)[index]

    def records(self, split: str = "train", index: int = 0, rung: str = FULL_RUNG) -> list[Record]:
        """The records that were written to one shard."""
        counts = [shard.records for shard in self.manifest.rungs[rung].shards[split]]
        start = sum(counts[:index])
        return [record for record, _ in self.expected[rung][split][start : start + counts[index]]]

    def save(self, manifest: Manifest) -> None:
        """Replaces manifest and TFDS metadata."""
        for rung in manifest.rungs:
            write_tfds_metadata(self.root / rung, manifest, rung)
        write_atomically(self.root / MANIFEST_NAME, manifest.to_json())

    def rewrite(self, records: Sequence[Record], split: str = "train", index: int = 0, rung: str = FULL_RUNG) -> None:
        """Puts other records into a shard, with right CRCs, checksum, count and metadata: a forgery."""
        shard = write_shard(self.shard(split, index, rung), self.manifest, rung, records)
        content = self.manifest.rungs[rung]
        shards = list(content.shards[split])
        shards[index] = shard
        rungs = {
            **self.manifest.rungs,
            rung: Rung(content.size, content.encoding, {**content.shards, split: tuple(shards)}),
        }
        self.save(dataclasses.replace(self.manifest, rungs=rungs))


def write_shard(path: Path, manifest: Manifest, rung: str, records: Sequence[Record]) -> Shard:
    schema, index = manifest.schema(rung), IndexWriter(manifest.label_columns, manifest.groups)
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        for record in records:
            data = schema.serialize(record)
            index.add(record, schema.image_span(record, len(data)), writer.write(data))
    with open(index_path(path), "wb") as file:
        beside = index.write(file, writer.checksum)
    return Shard(writer.records, writer.bytes, writer.checksum, beside.bytes, beside.checksum)


def make_dataset(
    root: Path,
    encoding: str = "png",
    bit_depth: int = 8,
    channels: Sequence[int] = (1,),
    multi_label: bool = False,
    groups: Sequence[str] = (),
    sizes: Sequence[int] = (24,),
    shards: dict[str, tuple[int, ...]] | None = None,
    shape: Callable[[int], tuple[int, int]] = lambda number: (30 + 5 * number, 52 - 2 * number),
) -> Made:
    """Writes a data set.

    Args:
      root: directory to make it in.
      encoding: of the full rung; the smaller rungs are raw unless it is `png`.
      bit_depth: 8 or 16.
      channels: of the images, in turn.
      multi_label: give the images 0, 1, 2, ... labels in turn instead of one.
      groups: of `schema.GROUPS`; with any, a label of every other image is unknown where there are several.
      sizes: of the smaller rungs.
      shards: number of records of each shard, by split.
      shape: (height, width) of the image with that number, counted over all splits.
    """
    shards = shards or SHARDS
    rungs = {
        FULL_RUNG: (None, encoding),
        **{rung_name(size): (size, "png" if encoding == "png" else "raw") for size in sizes},
    }
    expected: dict = {rung: {split: [] for split in shards} for rung in rungs}
    number = 0
    for split, counts in shards.items():
        for _ in range(sum(counts)):
            image_channels = channels[number % len(channels)]
            original = draw(number, *shape(number), image_channels, bit_depth)
            for rung, (size, stored_as) in rungs.items():
                record, pixels = _store(original, number, split, size, stored_as, multi_label)
                if groups:
                    record = dataclasses.replace(record, **_more(record, number, groups))
                expected[rung][split].append((record, pixels))
                original = pixels if size is None else original  # smaller rungs are made of what JPEG left
            number += 1
    full = expected[FULL_RUNG]
    sidecars = {
        AUDIT_NAME: json.dumps({"warnings": ["SHORTCUT: the label can be read off the encoding"]}),
        AUDIT_PAGE_NAME: "<!DOCTYPE html><title>audit</title>",
        REJECTS_NAME: json.dumps({"path": "bad.jpeg", "kind": "unreadable", "reason": "empty"}) + "\n",
    }
    unknown = {split: (Shard(0, 0, "", 0, ""),) * len(counts) for split, counts in shards.items()}
    manifest = Manifest(
        name="chest_xray",
        labels=LABELS,
        multi_label=multi_label,
        unknown_labels=multi_label and bool(groups),
        groups=tuple(groups),
        bit_depth=bit_depth,
        channels=channels[0] if len(set(channels)) == 1 else 0,
        splits={split: _count(full[split]) for split in shards},
        rungs={rung: Rung(size, stored_as, unknown) for rung, (size, stored_as) in rungs.items()},
        sizes=size_histogram([pixels.shape[:2] for split in full.values() for _, pixels in split]),
        pixels=combine_statistics([codec.pixel_statistics(pixels) for _, pixels in full["train"]]),
        source={"kind": "hand", "pixels": fingerprint(entries(full))},
        options={"labels": "binary"},
        versions={"schema": "1"},
        sidecars={name: blake3.blake3(text.encode()).hexdigest() for name, text in sidecars.items()},
    )
    written = {}
    for rung, content in manifest.rungs.items():
        (root / rung).mkdir(parents=True)
        by_split = {}
        for split, counts in shards.items():
            records = iter(record for record, _ in expected[rung][split])
            by_split[split] = tuple(
                write_shard(path, manifest, rung, [next(records) for _ in range(count)])
                for path, count in zip(manifest.shard_paths(root, rung, split), counts, strict=True)
            )
        written[rung] = Rung(content.size, content.encoding, by_split)
    for name, text in sidecars.items():
        (root / name).write_text(text)
    made = Made(root, dataclasses.replace(manifest, rungs=written), expected)
    made.save(made.manifest)
    return made


def entries(rows: dict[str, list[tuple[Record, np.ndarray]]]) -> list[ImageEntry]:
    """What the fingerprint is made of, from the full rung's (record, pixels) by split."""
    return [
        ImageEntry(record.path, record.pixel_hash, record.labels, record.patient, split, more_of(vars(record)))
        for split in rows
        for record, _ in rows[split]
    ]


def _more(record: Record, number: int, groups: Sequence[str]) -> dict:
    """What else is said of an image."""
    values = {"view": ("PA", "AP", "")[number % 3], "age": str(30 + number), "sex": "FM"[number % 2], "site": "Zürich"}
    absent = [label for label in range(len(LABELS)) if label not in record.labels]
    several = isinstance(record.label, tuple)
    unknown = tuple(absent[:1]) if several and number % 2 else ()
    return {"unknown": unknown, **{group: values[group] for group in groups}}


def _store(
    original: np.ndarray, number: int, split: str, size: int | None, stored_as: str, multi_label: bool
) -> tuple[Record, np.ndarray]:
    pixels = original if size is None else codec.area_downscale(original, size)
    encoding = stored_as
    if stored_as == "source":
        encoding = "jpeg" if number % 2 == 0 and pixels.dtype == np.uint8 else "png"
    if encoding == "jpeg":
        image = to_jpeg(pixels, progressive=number % 4 == 0)
        pixels = codec.decode_jpeg(image, pixels.shape[2])
    else:
        image = codec.encode(pixels, encoding)
    record = Record(
        image=image,
        encoding=encoding,
        height=pixels.shape[0],
        width=pixels.shape[1],
        channels=pixels.shape[2],
        bit_depth=pixels.dtype.itemsize * 8,
        label=tuple(range(number % (len(LABELS) + 1))) if multi_label else number % len(LABELS),
        cause="bacteria" if number % 2 else "",
        patient=f"person{number // 2}",
        path=f"{split}/Ödem/肺{number}.jpeg",
        pixel_hash=codec.hash_pixels(pixels),
    )
    return record, pixels


def _count(rows: Sequence[tuple[Record, np.ndarray]]) -> Split:
    labels = collections.Counter(label for record, _ in rows for label in record.labels)
    unknown = collections.Counter(LABELS[label] for record, _ in rows for label in record.unknown)
    patients = len({record.patient for record, _ in rows})
    return Split(len(rows), patients, {name: labels[index] for index, name in enumerate(LABELS)}, dict(unknown))


@pytest.fixture
def dataset(tmp_path: Path) -> Made:
    """A clean grey 8-bit data set of two splits, three shards and two rungs."""
    return make_dataset(tmp_path / "set")


@pytest.fixture(scope="session")
def make() -> Callable[..., Made]:
    """`make_dataset`, for tests that choose what is in it."""
    return make_dataset


@pytest.fixture(scope="session")
def picture() -> Callable[..., np.ndarray]:
    """`draw(seed, height, width, channels, bit_depth)`."""
    return draw


@pytest.fixture(scope="session")
def jpeg() -> Callable[..., bytes]:
    """`to_jpeg(pixels, **options)`."""
    return to_jpeg

"""What a data set says of itself: `manifest.json`, written last and atomically.

Everything in it is a pure function of the source, the options and the software versions, so two runs of
the same job write the same bytes; times and machine names are not in it.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_origin, get_type_hints

import blake3

from cxr.errors import DatasetError
from tfrecords.format.schema import GROUPS, READABLE_VERSIONS, SCHEMA_VERSION, RecordSchema
from tfrecords.format.shards import FULL_RUNG, MANIFEST_NAME, shard_path

_Part = TypeVar("_Part")
RUNG_ENCODINGS = {"source": ("jpeg", "png"), "png": ("png",), "raw": ("raw",)}
"""Encoding of a rung: the encodings that its records may have."""
SIZE_STEP = 64
"""Width of a cell of the size histogram, pixels."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard and its index file: records in each, and size in bytes and BLAKE3 of either file."""

    records: int
    bytes: int
    blake3: str
    index_bytes: int
    index_blake3: str


@dataclasses.dataclass(frozen=True)
class Rung:
    """One resolution of the data set.

    Attributes:
      size: pixels on the short side at most, or None for full resolution.
      encoding: `source`, `png` or `raw`.
      shards: shard files by split, in order.
    """

    size: int | None
    encoding: str
    shards: dict[str, tuple[Shard, ...]]


@dataclasses.dataclass(frozen=True)
class Split:
    """One split: number of images and patients, and by label name images that have it, and of which it is unknown."""

    images: int
    patients: int
    labels: dict[str, int]
    unknown: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All that a reader needs to know before it opens a shard.

    Attributes:
      name: data set name, the first part of every shard's file name.
      labels: label names; a record's label is an index into them.
      multi_label: records hold any number of labels instead of one.
      bit_depth: 8 or 16, the same for all records.
      channels: 1 where every image is grey, 3 where every image is colour, 0 where there are both.
      splits: by name; `train`, `val`, `test` as far as they exist.
      rungs: by folder name; always has `full`.
      sizes: histogram of full-resolution sizes: `step` in pixels and `counts`, rows of
        [height // step, width // step, images]; minimum, mean and maximum of `height` and `width`; and
        `pixels`, the sum of all areas (`size_histogram`).
      pixels: `mean` and `std` of the pixels of the training split, or of all where there is none, in [0, 1] of
        full scale, each image weighing the same whatever its size.
      pixel_hash: how records' `pixel_hash` was computed.
      source: `kind` and `listing`, a fingerprint, of what the data set was made from, and `pixels`, the fingerprint
        of what is in it (`fingerprint`).
      options: the options of the job that change the result.
      versions: of the software that wrote it.
      sidecars: BLAKE3 of the reports beside the manifest, by file name: `audit.json`, `audit.html`
        and `rejects.jsonl`.
      unknown_labels: records say which labels are not known.
      groups: those of `schema.GROUPS` that records have.
      scale: bits that the white of the source's 16-bit images has, where their files do not state it.
      schema_version: of the feature table.
    """

    name: str
    labels: tuple[str, ...]
    multi_label: bool
    bit_depth: int
    channels: int
    splits: dict[str, Split]
    rungs: dict[str, Rung]
    sizes: dict[str, Any]
    pixels: dict[str, float]
    source: dict[str, Any]
    options: dict[str, Any]
    versions: dict[str, str]
    sidecars: dict[str, str]
    pixel_hash: str = "blake3"
    unknown_labels: bool = False
    groups: tuple[str, ...] = ()
    scale: int = 16
    schema_version: int = SCHEMA_VERSION

    def schema(self, rung: str = FULL_RUNG) -> RecordSchema:
        """The feature table of one rung."""
        raw = self.rungs[rung].encoding == "raw"
        return RecordSchema(raw, self.multi_label, self.unknown_labels, self.groups)

    def shard_paths(self, root: Path, rung: str, split: str) -> list[Path]:
        """The shard files of one split of one rung, in order, for a data set at `root`."""
        count = len(self.rungs[rung].shards[split])
        return [shard_path(root, rung, self.name, split, index, count) for index in range(count)]

    @property
    def label_columns(self) -> int | None:
        """Columns of a label matrix: the number of labels of a multi-label data set, else None."""
        return len(self.labels) if self.multi_label else None

    @property
    def digest(self) -> str:
        """BLAKE3 of manifest.json, 64 hex digits: data sets of equal digest have equal shards."""
        # no functools.cached_property: in Python 3.11 it holds one lock for all instances while it computes
        if "_digest" not in self.__dict__:
            object.__setattr__(self, "_digest", _hash_text(self.to_json()))
        return self.__dict__["_digest"]

    def to_json(self) -> str:
        """The content of manifest.json."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, path: object = MANIFEST_NAME) -> Manifest:
        """Reads the content of manifest.json.

        Raises:
          DatasetError: not JSON, of another schema version, or with missing or unknown entries.
        """
        try:
            fields = json.loads(text)
            version = fields["schema_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{path} is not a data set manifest: {error!r}") from error
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise DatasetError(
                f"{path} has schema version {version}, of a newer cxr-stream; this one reads {SCHEMA_VERSION}. "
                "Update cxr-stream"
            )
        if version not in READABLE_VERSIONS:
            raise DatasetError(
                f"{path} has schema version {version!r}; this version of cxr-stream reads {SCHEMA_VERSION}. Make the "
                f"data set again from its {_source_of(fields)}: {_command(fields, Path(str(path)).parent)}"
            )
        try:
            fields["labels"] = tuple(fields["labels"])
            fields["groups"] = tuple(fields.get("groups", ()))
            fields["splits"] = {name: _checked(Split, split) for name, split in fields["splits"].items()}
            fields["rungs"] = {name: _rung_from_json(rung) for name, rung in fields["rungs"].items()}
            manifest = _checked(cls, fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{path} is damaged: {error}") from error
        manifest._check_rungs(path)
        object.__setattr__(manifest, "_digest", _hash_text(text))
        return manifest

    def _check_rungs(self, path: object) -> None:
        """Raises DatasetError unless every rung has every split in the same number of shards."""
        if FULL_RUNG not in self.rungs:
            raise DatasetError(f"{path} is damaged: it has no rung '{FULL_RUNG}'")
        expected = {split: len(self.rungs[FULL_RUNG].shards.get(split, ())) for split in self.splits}
        for name, rung in self.rungs.items():
            if rung.encoding not in RUNG_ENCODINGS:
                raise DatasetError(f"{path} is damaged: rung '{name}' has the unknown encoding {rung.encoding!r}")
            found = {split: len(shards) for split, shards in rung.shards.items()}
            if found != expected:
                raise DatasetError(f"{path} is damaged: rung '{name}' has shards {found}; expected {expected}")


def _source_of(fields: dict[str, Any]) -> str:
    source = fields.get("source")
    return str(source.get("kind", "source")) if isinstance(source, dict) else "source"


def _command(fields: dict[str, Any], output: Path) -> str:
    """The command line that makes a data set again; the manifest does not say where its source was."""
    options = fields.get("options")
    options = options if isinstance(options, dict) else {}
    parts = ["cxr", "preprocess", "--input", "SOURCE", "--output", str(output), "--overwrite"]
    if options.get("patient_salt"):  # kept as a hash only
        parts.insert(0, "CXR_PATIENT_SALT=SALT")
    for name, value in options.items():
        if name == "patient_salt" or value in (None, []):
            continue
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        parts += ["--" + name.replace("_", "-"), text]
    return shlex.join(parts)


def _hash_text(text: str) -> str:
    return blake3.blake3(text.encode()).hexdigest()


def _rung_from_json(fields: dict[str, Any]) -> Rung:
    shards = {split: tuple(_checked(Shard, shard) for shard in shards) for split, shards in fields["shards"].items()}
    return _checked(Rung, {**fields, "shards": shards})


def _checked(kind: type[_Part], fields: dict[str, Any]) -> _Part:
    """`kind(**fields)`; raises TypeError where a field is not of the type that `kind` declares."""
    if not isinstance(fields, dict):
        raise TypeError(f"{kind.__name__} is {fields!r}; expected an object")
    for name, hint in get_type_hints(kind).items():
        expected = get_origin(hint) if get_origin(hint) in (dict, tuple) else hint
        if name in fields and not isinstance(fields[name], expected):
            raise TypeError(f"{name} is {fields[name]!r}; expected {getattr(hint, '__name__', hint)}")
    return kind(**fields)


def size_histogram(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """`Manifest.sizes` of images of the given (height, width), at least one."""
    cells = collections.Counter((height // SIZE_STEP, width // SIZE_STEP) for height, width in sizes)
    histogram: dict[str, Any] = {"step": SIZE_STEP, "counts": [[*cell, count] for cell, count in sorted(cells.items())]}
    for side, values in zip(("height", "width"), zip(*sizes, strict=True), strict=True):
        histogram[side] = {"min": min(values), "mean": round(sum(values) / len(values), 2), "max": max(values)}
    histogram["pixels"] = sum(height * width for height, width in sizes)
    return histogram


class ImageEntry(NamedTuple):
    """What the fingerprint of a data set tells of one image.

    Attributes:
      path: in the source.
      pixel_hash: of the full image, see `codec.hash_pixels`.
      labels: indices into the manifest's labels; exactly one, except in a multi-label set.
      patient: patient key.
      split: name of the split.
      more: unknown labels and groups, by name, where the data set has any.
    """

    path: str
    pixel_hash: str
    labels: tuple[int, ...]
    patient: str
    split: str
    more: tuple[tuple[str, Any], ...] = ()


def more_of(said: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """`ImageEntry.more` of what is said of an image: `unknown` and the groups, where there is anything."""
    return tuple((name, said[name]) for name in ("unknown", *GROUPS) if said.get(name))


def fingerprint(images: Iterable[ImageEntry]) -> str:
    """BLAKE3 over all that a data set says, 64 hex digits; the order of the images does not matter.

    Args:
      images: every image of the full-resolution rung.
    """
    hasher = blake3.blake3()
    for image in sorted(images):
        hasher.update(json.dumps(image if image.more else image[:-1]).encode())
    return hasher.hexdigest()


def combine_statistics(images: Sequence[tuple[float, float]]) -> dict[str, float]:
    """`Manifest.pixels` of images of the given (mean, variance), see `codec.pixel_statistics`.

    Args:
      images: (mean, variance) of each image, in any order; at least one.

    Returns:
      `mean` and `std` over all images, each weighing the same, rounded to 9 places.
    """
    mean = math.fsum(image_mean for image_mean, _ in images) / len(images)
    square = math.fsum(variance + image_mean**2 for image_mean, variance in images) / len(images)
    return {"mean": round(mean, 9), "std": round(math.sqrt(max(0.0, square - mean**2)), 9)}


def common_channels(channels: Iterable[int]) -> int:
    """`Manifest.channels` of images of the given numbers of channels: the one number, or 0 where they differ."""
    found = set(channels)
    return found.pop() if len(found) == 1 else 0


def read_manifest(root: str | Path) -> Manifest:
    """Reads the manifest of the data set at `root`.

    Raises:
      DatasetError: `root` is not a finished data set, or not one that this version can read.
    """
    path = Path(root) / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        if not Path(root).is_dir():
            raise DatasetError(f"{root} is not a directory; expected a data set written by `cxr preprocess`") from error
        raise DatasetError(
            f"{root} is not a data set: it has no {MANIFEST_NAME}, which `cxr preprocess` writes last. "
            "If a job was stopped half-way, run it again: it continues where it stopped."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {path}: {error}") from error
    return Manifest.from_json(text, path)

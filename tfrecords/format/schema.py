"""What one record is: a feature table that drives the serializer, the parsers and TFDS's features.json.

Nothing here imports TensorFlow; a Beam worker writes records with this file and `framing.py` alone.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

from google.protobuf.message import DecodeError

from cxr.errors import DatasetError
from tfrecords.format.example_proto import Example

SCHEMA_VERSION = 3
"""Raised whenever a reader of the old version could not read, or would misread, a new data set."""

READABLE_VERSIONS = (2, SCHEMA_VERSION)
"""Schema versions that this version reads. One of version 2 knows neither unknown labels nor groups."""

GROUPS = ("view", "age", "sex", "site")
"""What a data set may say of each image besides its label, to compare groups of images by."""

ENCODINGS = ("jpeg", "png", "raw")
"""How the image of a record may be stored: a JPEG or PNG file, or rows of little-endian pixels."""

Kind = Literal["bytes", "text", "int"]


@dataclasses.dataclass(frozen=True)
class Feature:
    """One row of the feature table: a key of the stored `tf.train.Example`. `Record` says what they mean."""

    key: str
    kind: Kind
    repeated: bool = False


@dataclasses.dataclass(frozen=True)
class Record:
    """One image of a data set, as stored.

    Attributes:
      image: the image: a JPEG or PNG file, or for `raw` `height * width * channels` pixels,
        rows first, channels last, uint8 or little-endian uint16.
      encoding: one of `ENCODINGS`.
      height, width: pixels.
      channels: 1 (grey) or 3 (red, green, blue).
      bit_depth: 8 or 16; 0 is black and `2**bit_depth - 1` white.
      label: index into the data set's label names, or several for a multi-label data set.
      cause: what the finding is due to where the source says so ("bacteria"), else "".
      patient: key under which images are grouped; never a name or a hospital number.
      path: where the image came from, relative to the source; unique in a data set.
      pixel_hash: BLAKE3 of the decoded pixels (`tfrecords.images.codec.hash_pixels`), 64 hex digits.
      unknown: indices of the labels of which it is not known whether the image has them; in a multi-label data set.
      view: projection, such as "PA", or "" where it is not known; so for the rest.
      age: of the patient, years, as text.
      sex: of the patient, "F" or "M".
      site: hospital.
    """

    image: bytes
    encoding: str
    height: int
    width: int
    channels: int
    bit_depth: int
    label: int | tuple[int, ...]
    cause: str
    patient: str
    path: str
    pixel_hash: str
    unknown: tuple[int, ...] = ()
    view: str = ""
    age: str = ""
    sex: str = ""
    site: str = ""

    @property
    def labels(self) -> tuple[int, ...]:
        """All labels, however many a record of this data set has."""
        return self.label if isinstance(self.label, tuple) else (self.label,)


@dataclasses.dataclass(frozen=True)
class RecordSchema:
    """The feature table of one data set, and what follows from it.

    Attributes:
      raw: images are stored as rows of pixels under `image/shape` and `image/value` (the layout of a
        `tfds.features.Tensor` of unknown height and width), not as a JPEG or PNG file under `image`.
      multi_label: `label` holds any number of labels instead of exactly one.
      unknown_labels: records have `unknown`.
      groups: those of `GROUPS` that records have.
    """

    raw: bool
    multi_label: bool
    unknown_labels: bool = False
    groups: tuple[str, ...] = ()

    @functools.cached_property
    def features(self) -> tuple[Feature, ...]:
        """The feature table."""
        image = (Feature("image/shape", "int", repeated=True), Feature("image/value", "bytes"))
        return (
            *(image if self.raw else (Feature("image", "bytes"),)),
            Feature("encoding", "text"),
            *(Feature(name, "int") for name in ("height", "width", "channels", "bit_depth")),
            Feature("label", "int", repeated=self.multi_label),
            *((Feature("unknown", "int", repeated=True),) if self.unknown_labels else ()),
            *(Feature(name, "text") for name in ("cause", "patient", "path", "pixel_hash", *self.groups)),
        )

    def serialize(self, record: Record) -> bytes:
        """The record as a serialized `tf.train.Example`; the same record always gives the same bytes.

        Raises:
          ValueError: a value does not fit its feature; the message names the feature and the path.
        """
        return self._example(record, self.features).SerializeToString(deterministic=True)

    def image_span(self, record: Record, length: int) -> tuple[int, int]:
        """Where the image begins and ends in the `length` bytes that `serialize` makes of the record.

        Features are serialized in the order of their keys, so the image ends where those of greater keys begin.
        """
        behind = tuple(feature for feature in self.features if feature.key > ("image/value" if self.raw else "image"))
        end = length - len(self._example(record, behind).features.SerializeToString(deterministic=True))
        return end - len(record.image), end

    def _example(self, record: Record, features: tuple[Feature, ...]) -> Any:
        """The `tf.train.Example` of some features of a record."""
        values: dict[str, Any] = dict(vars(record))
        if self.raw:
            values["image/value"] = values.pop("image")
            values["image/shape"] = (record.height, record.width, record.channels)
        example = Example()
        for feature in features:
            value = values[feature.key]
            items = value if feature.repeated else (value,)
            try:
                stored = example.features.feature[feature.key]
                if feature.kind == "int":
                    stored.int64_list.value.extend(items)
                elif feature.kind == "text":
                    stored.bytes_list.value.extend(item.encode() for item in items)
                else:
                    stored.bytes_list.value.extend(items)
            except (TypeError, ValueError, AttributeError) as error:
                raise ValueError(
                    f"feature '{feature.key}' of {record.path}: expected {feature.kind}, received {value!r:.80}: "
                    f"{error}"
                ) from error
        return example

    def parse(self, data: bytes) -> Record:
        """The record that `serialize` stored.

        Raises:
          DatasetError: the bytes are not such a record; the message names the first wrong feature.
        """
        try:
            stored = Example.FromString(data).features.feature
        except DecodeError as error:
            raise DatasetError(f"not a serialized tf.train.Example: {error}") from error
        values: dict[str, Any] = {}
        for feature in self.features:
            if feature.key not in stored:
                raise DatasetError(
                    f"feature '{feature.key}' is missing; the record has {', '.join(sorted(stored)) or 'none'}"
                )
            entry = stored[feature.key]
            found: Any = (entry.int64_list if feature.kind == "int" else entry.bytes_list).value
            kind = None if found else entry.WhichOneof("kind")  # None also for an empty list
            if kind not in ("int64_list" if feature.kind == "int" else "bytes_list", None):
                raise DatasetError(f"feature '{feature.key}': expected {feature.kind} values, received a {kind}")
            if feature.kind == "text":
                try:
                    found = [item.decode() for item in found]
                except UnicodeDecodeError as error:
                    raise DatasetError(f"feature '{feature.key}' is not UTF-8 text: {error}") from error
            if feature.repeated:
                values[feature.key] = tuple(found)
            elif len(found) == 1:
                values[feature.key] = found[0]
            else:
                raise DatasetError(f"feature '{feature.key}': expected one {feature.kind} value, received {len(found)}")
        if self.raw:
            values["image"] = values.pop("image/value")
            shape, said = values.pop("image/shape"), (values["height"], values["width"], values["channels"])
            if shape != said:
                raise DatasetError(f"feature 'image/shape' is {shape}, but height, width and channels are {said}")
        return Record(**values)

    def tfds_features(self, labels: tuple[str, ...], bit_depth: int, channels: int) -> dict[str, Any]:
        """The content of TFDS's features.json (its `FeaturesDict`) for this feature table.

        Args:
          labels: label names.
          bit_depth: 8 or 16.
          channels: 1, 3, or 0 where records differ (only `raw` can say so; files decode to 3 then).
        """
        dtype = f"uint{bit_depth}"
        if self.raw:
            shape = {"dimensions": ["-1", "-1", str(channels or -1)]}
            image = _tfds("tensor_feature.Tensor", tensor={"dtype": dtype, "encoding": "bytes", "shape": shape})
        else:
            shape = {"dimensions": ["-1", "-1", str(channels or 3)]}
            image = {
                "pythonClassName": "tfrecords.format.tfds_image.ExactImage",
                "image": {"dtype": dtype, "shape": shape},
            }
        label = _tfds("class_label_feature.ClassLabel", classLabel={"numClasses": str(len(labels))})
        several = _tfds("sequence_feature.Sequence", sequence={"feature": label, "length": "-1"})
        columns: dict[str, Any] = {"image": image, "label": several if self.multi_label else label}
        if self.unknown_labels:
            columns["unknown"] = several
        for feature in self.features:
            if feature.key.split("/")[0] in columns:
                continue
            columns[feature.key] = (
                _tfds("scalar.Scalar", tensor={"dtype": "int64", "encoding": "none", "shape": {}})
                if feature.kind == "int"
                else _tfds("text_feature.Text", text={})
            )
        return _tfds("features_dict.FeaturesDict", featuresDict={"features": columns})


def _tfds(class_name: str, **content: Any) -> dict[str, Any]:
    return {"pythonClassName": f"tensorflow_datasets.core.features.{class_name}", **content}

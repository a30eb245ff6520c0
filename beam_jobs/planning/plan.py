"""From index rows to shards: labels, patients, splits, duplicates, and who goes where.

All of it is pure and a function of (rows, options, seed) alone, whatever order the rows come in.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Sequence

from beam_jobs.planning.headers import IndexRow
from beam_jobs.preprocess_config import DEFAULT_FRACTIONS, DEFAULT_VAL_FRACTION, PreprocessConfig
from beam_jobs.sources.naming import (
    CAUSE_LABELS,
    compile_patient_pattern,
    kermany_cause,
    kermany_patient,
    normalise_cause,
)
from cxr.errors import InputError
from tfrecords.format.labels import is_normal

SPLIT_ORDER = ("train", "val", "test")
MAX_SHARDS = 99_999
MIN_SHARDS = 16
"""Shards that a split gets at least, so that many workers share a small data set and a reader mixes files..."""
MIN_SHARD_IMAGES = 8
"""... unless a shard would then hold fewer images than this."""
PNG_RATIO = 0.6
"""Size of a PNG relative to its pixels, to plan shards with: measured on full-resolution X-rays."""


@dataclasses.dataclass(frozen=True)
class PlannedImage:
    """One image on its way into a shard.

    Attributes:
      path: in the source.
      labels: indices into the label names; one, except in a multi-label data set.
      split: name of the split.
      patient: key under which images are grouped.
      cause: or "".
      bytes: estimated bytes of the stored full-resolution image.
      pixels: width x height.
      modified: stamp of the source file, so that a shard of a mended file is written anew.
    """

    path: str
    labels: tuple[int, ...]
    split: str
    patient: str
    cause: str
    bytes: int
    pixels: int
    modified: int = 0


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """One shard: its place, and its images in order."""

    split: str
    index: int
    count: int
    images: tuple[PlannedImage, ...]

    @property
    def bytes(self) -> int:
        """Estimated size of the full-resolution shard."""
        return sum(image.bytes for image in self.images)

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ShardPlan:
        """The plan that `to_json` wrote."""
        fields = json.loads(text)
        images = tuple(PlannedImage(**{**image, "labels": tuple(image["labels"])}) for image in fields.pop("images"))
        return cls(**fields, images=images)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the job will write.

    Attributes:
      labels: label names.
      multi_label: records hold any number of labels.
      bit_depth: 16 where any image has more than 8 bits.
      shards: in order of split and index.
      own_patients: images of which nothing names the patient, each counted as a patient of its own.
      notes: what was decided and a person should know.
    """

    labels: tuple[str, ...]
    multi_label: bool
    bit_depth: int
    shards: tuple[ShardPlan, ...]
    own_patients: int
    notes: tuple[str, ...]

    @property
    def images(self) -> Iterable[PlannedImage]:
        """All images, in the order of the shards."""
        return (image for shard in self.shards for image in shard.images)


def make_plan(rows: Sequence[IndexRow], config: PreprocessConfig) -> Plan:
    """Decides labels, patients, splits and shards for the usable rows.

    Args:
      rows: usable rows (no `reject`), in any order.
      config: of the job.

    Raises:
      InputError: unknown, missing or too few labels, or a split that would come out empty.
    """
    rows = sorted(rows, key=lambda row: row.image.path)
    labels, multi_label, indices = _assign_labels(rows, config)
    patients, own_patients = _assign_patients(rows, config)
    splits, required, notes = _assign_splits(rows, patients, config)
    depths = collections.Counter(row.header.bit_depth for row in rows if row.header)
    bit_depth = common_bit_depth(rows)
    if len(depths) > 1:
        notes.append(
            f"{depths[8]} images have 8 bits and {depths[16]} have 16: all are stored with 16, 8-bit values x 257"
        )
    if config.patient_salt is None and any(row.header and row.header.patient for row in rows):
        notes.append("DICOM patient ids were hashed with the public default salt; set CXR_PATIENT_SALT to a secret")
    images = []
    for row, own, split, patient in zip(rows, indices, splits, patients, strict=True):
        pixels = row.header.width * row.header.height if row.header else 0
        decided = row.image.path, own, split, patient, _cause_of(row) or ""
        images.append(PlannedImage(*decided, _estimate_bytes(row, config, bit_depth), pixels, row.image.modified))
    _check_splits(images, required, labels, folders=all(row.image.split for row in rows))
    return Plan(labels, multi_label, bit_depth, _cut_shards(images, config), own_patients, tuple(notes))


def common_bit_depth(rows: Iterable[IndexRow]) -> int:
    """The bit depth of a data set of these images: 16 where any has more than 8 bits, else 8."""
    return max((row.header.bit_depth for row in rows if row.header), default=8)


def split_order(split: str) -> tuple[int, str]:
    """Sorts train, val, test first and in this order."""
    return (SPLIT_ORDER.index(split) if split in SPLIT_ORDER else len(SPLIT_ORDER), split)


def hash_fraction(*parts: object) -> float:
    """A number in [0, 1) that is a stable, evenly spread function of `parts`."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _assign_labels(
    rows: Sequence[IndexRow], config: PreprocessConfig
) -> tuple[tuple[str, ...], bool, list[tuple[int, ...]]]:
    """(label names, whether multi-label, indices for each row)."""
    if config.labels == "cause":
        found = [(_cause_of(row),) for row in rows]
        unknown = [row.image.path for row, (cause,) in zip(rows, found, strict=True) if cause not in CAUSE_LABELS]
        if unknown:
            raise InputError(
                f"--labels cause: {len(unknown)} of {len(rows)} images have no known cause, {unknown[0]} the first; "
                "expected Kermany file names (person1_bacteria_2.jpeg) or a `cause` column with "
                f"{', '.join(CAUSE_LABELS)}. Use --labels binary to take the classes as they are."
            )
        names: tuple[str, ...] = CAUSE_LABELS
        for row, (cause,) in zip(rows, found, strict=True):
            if row.image.labels and (cause == "normal") != _is_normal(row):
                raise InputError(
                    f"--labels cause: {row.image.path} is labelled {'|'.join(row.image.labels)} and its cause is "
                    f"{cause}; one of the two is wrong"
                )
    else:
        found = [row.image.labels for row in rows]  # type: ignore[misc]
        names = config.classes or tuple(sorted({name for labels in found for name in labels if name}, key=_label_order))
    unprintable = [name for name in names if not name.isprintable()]
    if unprintable:
        raise InputError(f"the label {unprintable[0]!r} contains unprintable characters; rename it in the source")
    multi_label = any(len(labels) > 1 for labels in found)
    position = {name: index for index, name in enumerate(names)}
    indices: list[tuple[int, ...]] = []
    for row, labels in zip(rows, found, strict=True):
        path = row.image.path
        if not labels and not multi_label:
            raise InputError(f"{path} has an empty label; only a multi-label table (labels joined by '|') may")
        strange = [name for name in labels if name not in position]
        if strange:
            known = f"expected one of {', '.join(names)} (--classes)"
            raise InputError(f"{path} has the unknown label {strange[0]!r}; {known}")
        indices.append(tuple(sorted(position[name] for name in labels if name)))
    used = {index for labels in indices for index in labels}
    if len(names) < 2 or (len(used) < 2 and not multi_label):
        raise InputError(
            f"all {len(rows)} images have the label {names[min(used, default=0)] if names else '(none)'}; "
            "a classification data set needs at least two classes, each in a folder of its own"
        )
    return names, multi_label, indices


def _label_order(name: str) -> tuple[bool, str, str]:
    return not is_normal(name), name.lower(), name


def _is_normal(row: IndexRow) -> bool:
    return any(is_normal(label) for label in row.image.labels)


def _cause_of(row: IndexRow) -> str | None:
    stated = normalise_cause(row.image.cause) or kermany_cause(row.image.path)
    return "normal" if stated is None and _is_normal(row) else stated


def _assign_patients(rows: Sequence[IndexRow], config: PreprocessConfig) -> tuple[list[str], int]:
    """(patient key of each row, how many rows name none)."""
    pattern = compile_patient_pattern(config.patient_pattern) if config.patient_pattern else None
    patients, own = [], 0
    for row in rows:
        patient = row.image.patient
        if patient is None and pattern is not None:
            match = pattern.search(row.image.path)
            if match is None or match[1] is None:
                raise InputError(f"--patient-pattern {config.patient_pattern!r} does not match {row.image.path}")
            patient = match[1]
        if patient is None:
            patient = (row.header and row.header.patient) or kermany_patient(row.image.path, _is_normal(row))
        own += not patient
        patients.append(patient or row.image.path)
    return patients, own


def _assign_splits(
    rows: Sequence[IndexRow], patients: Sequence[str], config: PreprocessConfig
) -> tuple[list[str], set[str], list[str]]:
    """(split of each row, splits that must not be empty, notes)."""
    notes: list[str] = []
    stated = [row.image.split for row in rows]
    without = [row.image.path for row, split in zip(rows, stated, strict=True) if not split]
    if config.split is None and without and any(stated):
        raise InputError(
            f"{len(without)} of {len(rows)} images have no split, {without[0]} the first, and the others have one. "
            "Give each a split, or make new ones for all with --split patient."
        )
    if config.split == "patient" or (config.split is None and without):
        if config.val_fraction is not None:
            raise InputError("--val-fraction carves the source's splits, and there are none; expected --fractions")
        if any(stated):
            notes.append("the source's own splits were replaced by new ones by patient")
        fractions = config.fractions or DEFAULT_FRACTIONS
        bounds = (fractions[0], fractions[0] + fractions[1])
        splits = [
            SPLIT_ORDER[sum(hash_fraction(config.seed, "split", patient) >= bound for bound in bounds)]
            for patient in patients
        ]
        return splits, {split for split, part in zip(SPLIT_ORDER, fractions, strict=True) if part}, notes
    if config.fractions is not None:
        raise InputError("--fractions makes new splits, and the source has its own; expected --split patient with it")
    if without:
        raise InputError(
            f"--split folder: {len(without)} of {len(rows)} images have no split, {without[0]} the first; expected "
            "train/, val/, test/ folders or a `split` column. Use --split patient to make splits by patient."
        )
    splits = [str(split) for split in stated]
    counts = collections.Counter(splits)
    required = {"train", *splits}
    fraction = DEFAULT_VAL_FRACTION if config.val_fraction is None else config.val_fraction
    before = counts["train"] + counts["val"]
    if fraction and counts["train"] and counts["val"] < fraction * before / 2:
        tiny = f"the source's {counts['val']} validation images were merged into train, and " if counts["val"] else ""
        for number, patient in enumerate(patients):
            if splits[number] in ("train", "val"):
                splits[number] = "val" if hash_fraction(config.seed, "val", patient) < fraction else "train"
        required.add("val")
        notes.append(
            f"{tiny}{fraction:.0%} of the patients of train, {splits.count('val')} of {before} images, were set apart "
            "for validation"
        )
    elif fraction and counts["val"]:
        notes.append(f"the source's own validation split of {counts['val']} images was kept")
    return splits, required, notes


def _check_splits(images: Sequence[PlannedImage], required: set[str], labels: Sequence[str], folders: bool) -> None:
    found = sorted({image.split for image in images})
    empty = sorted(required - set(found))
    if empty:
        raise InputError(
            f"the split '{empty[0]}' would be empty: {len(images)} images of "
            f"{len({image.patient for image in images})} patients went to {', '.join(found)}. "
            "Add images, raise its fraction, or try another --seed."
        )
    for split, other in itertools.permutations(found, 2):
        if other.startswith(split):
            both = f"the split names '{split}' and '{other}'"
            raise InputError(f"{both} clash: TFDS needs names that no other begins with")
    for split in found:
        if re.fullmatch(r"\w+", split) is None:
            raise InputError(f"the split name {split!r} contains characters other than letters, digits and _")
    seen = {split: {label for image in images if image.split == split for label in image.labels} for split in found}
    for split in found:
        if split != "train" and (strange := seen[split] - seen["train"]):
            known = ", ".join(labels[index] for index in sorted(seen["train"]))
            hint = "Is a class misspelt?" if folders else "It is rare: try another --seed, or join it to another class."
            what = f"the label {labels[min(strange)]!r} of split '{split}'"
            raise InputError(f"{what} is unknown in train, which has {known}. {hint}")


def _estimate_bytes(row: IndexRow, config: PreprocessConfig, bit_depth: int) -> int:
    header = row.header
    if header is None:
        return 0
    pixels = header.width * header.height * bit_depth // 8
    if config.encoding == "raw":
        return pixels
    kept = config.encoding == "source" and header.format in ("JPEG", "PNG") and header.bit_depth == bit_depth
    return row.image.bytes if kept else round(pixels * PNG_RATIO)


def _cut_shards(images: Sequence[PlannedImage], config: PreprocessConfig) -> tuple[ShardPlan, ...]:
    """Orders each split by a salted hash and cuts it into shards of equal bytes.

    Equal bytes, because Beam's local runner deals shards to its workers once and for all.
    """
    by_split: dict[str, list[PlannedImage]] = collections.defaultdict(list)
    for image in images:
        by_split[image.split].append(image)
    shards: list[ShardPlan] = []
    for split in sorted(by_split, key=split_order):
        ordered = sorted(by_split[split], key=lambda it: (hash_fraction(config.seed, "order", it.path), it.path))
        total = sum(image.bytes for image in ordered)
        by_size = math.ceil(total / (config.shard_mb * 2**20))
        count = min(len(ordered), max(1, by_size, min(MIN_SHARDS, len(ordered) // MIN_SHARD_IMAGES)))
        if count > MAX_SHARDS:
            what = f"would cut split '{split}' into {count} shards"
            raise InputError(f"--shard-mb {config.shard_mb:g} {what}; at most {MAX_SHARDS}")
        parts: list[list[PlannedImage]] = [[] for _ in range(count)]
        before = 0
        for image in ordered:
            middle = before + image.bytes / 2
            parts[min(count - 1, int(middle * count / max(1, total)))].append(image)
            before += image.bytes
        parts = [part for part in parts if part]  # one image larger than a shard may leave a gap
        shards += [ShardPlan(split, index, len(parts), tuple(part)) for index, part in enumerate(parts)]
    return tuple(shards)

"""From index rows to shards: labels, patients, splits, duplicates, and who goes where.

All of it is pure and a function of (rows, options, seed) alone, whatever order the rows come in.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterable, Sequence

from beam_jobs.planning.headers import IndexRow
from beam_jobs.planning.splits import deal_patients, hash_fraction
from beam_jobs.preprocess_config import DEFAULT_FRACTIONS, DEFAULT_VAL_FRACTION, PreprocessConfig
from beam_jobs.sources.naming import CAUSE_LABELS, kermany_cause, kermany_patient, nih_patient, normalise_cause
from cxr.errors import InputError
from tfrecords.format.labels import is_normal
from tfrecords.format.manifest import Split
from tfrecords.format.schema import GROUPS

SPLIT_ORDER = ("train", "val", "test")
EXTERNAL_SPLIT = "test"
"""The one split of a data set that is there to validate on what was trained elsewhere."""
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
      unknown: indices of labels that are not known; in a multi-label data set.
      groups: what else is known of the image, in the order of `Plan.groups`.
    """

    path: str
    labels: tuple[int, ...]
    split: str
    patient: str
    cause: str
    bytes: int
    pixels: int
    modified: int = 0
    unknown: tuple[int, ...] = ()
    groups: tuple[str, ...] = ()


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
        lists = ("labels", "unknown", "groups")
        images = [image | {name: tuple(image[name]) for name in lists} for image in fields.pop("images")]
        return cls(**fields, images=tuple(PlannedImage(**image) for image in images))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the job will write.

    Attributes:
      labels: label names.
      multi_label: records hold any number of labels.
      bit_depth: 16 where any image has more than 8 bits.
      shards: in order of split and index.
      groups: those of `schema.GROUPS` that the source states of any image.
      own_patients: images of which nothing names the patient, each counted as a patient of its own.
      notes: what was decided and a person should know.
    """

    labels: tuple[str, ...]
    multi_label: bool
    bit_depth: int
    shards: tuple[ShardPlan, ...]
    groups: tuple[str, ...]
    own_patients: int
    notes: tuple[str, ...]

    @property
    def unknown_labels(self) -> bool:
        """Whether a label of any image is not known."""
        return any(image.unknown for image in self.images)

    @property
    def images(self) -> Iterable[PlannedImage]:
        """All images, in the order of the shards."""
        return (image for shard in self.shards for image in shard.images)


def make_plan(rows: Sequence[IndexRow], config: PreprocessConfig, label_names: Sequence[str] | None = None) -> Plan:
    """Decides labels, patients, splits and shards for the usable rows.

    Args:
      rows: usable rows (no `reject`), in any order.
      config: of the job.
      label_names: in order, where the source has one column a label.

    Raises:
      InputError: unknown, missing or too few labels, or a split that would come out empty.
    """
    rows = sorted(rows, key=lambda row: row.image.path)
    labels, multi_label, indices, unknown = _assign_labels(rows, config, label_names)
    groups = tuple(group for group in GROUPS if any(getattr(row.image, group) for row in rows))
    patients, own_patients = _assign_patients(rows)
    splits, notes = _assign_splits(rows, patients, indices, config)
    depths = collections.Counter(row.header.bit_depth for row in rows if row.header)
    bit_depth = common_bit_depth(rows)
    if len(depths) > 1:
        notes.append(
            f"{depths[8]} images have 8 bits and {depths[16]} have 16: all are stored with 16, 8-bit values x 257"
        )
    if config.patient_salt is None and any(row.header and row.header.patient for row in rows):
        notes.append("DICOM patient ids were hashed with the public default salt; set CXR_PATIENT_SALT to a secret")
    images = []
    for row, own, doubtful, split, patient in zip(rows, indices, unknown, splits, patients, strict=True):
        pixels = row.header.width * row.header.height if row.header else 0
        decided = row.image.path, own, split, patient, _cause_of(row) or ""
        sizes = _estimate_bytes(row, config, bit_depth), pixels, row.image.modified
        more = tuple(getattr(row.image, group) for group in groups)
        images.append(PlannedImage(*decided, *sizes, doubtful, more))
    dealt = config.split == "patient" or (config.split is None and not all(row.image.split for row in rows))
    notes += _check_splits(images, config, labels, multi_label, dealt)
    return Plan(labels, multi_label, bit_depth, _cut_shards(images, config), groups, own_patients, tuple(notes))


def count_splits(plan: Plan, images: Iterable[PlannedImage]) -> dict[str, Split]:
    """What some images of a plan come to: images, patients and labels by split, in the plan's order of splits."""
    by_split: dict[str, list[PlannedImage]] = {shard.split: [] for shard in plan.shards}
    for image in images:
        by_split[image.split].append(image)
    splits = {}
    for name, own in by_split.items():
        counts = collections.Counter(index for image in own for index in image.labels)
        labels = {label: counts[index] for index, label in enumerate(plan.labels)}
        unknown = dict(collections.Counter(plan.labels[index] for image in own for index in image.unknown))
        splits[name] = Split(len(own), len({image.patient for image in own}), labels, unknown)
    return splits


def common_bit_depth(rows: Iterable[IndexRow]) -> int:
    """The bit depth of a data set of these images: 16 where any has more than 8 bits, else 8."""
    return max((row.header.bit_depth for row in rows if row.header), default=8)


def split_order(split: str) -> tuple[int, str]:
    """Sorts train, val, test first and in this order."""
    return (SPLIT_ORDER.index(split) if split in SPLIT_ORDER else len(SPLIT_ORDER), split)


def _assign_labels(
    rows: Sequence[IndexRow], config: PreprocessConfig, given: Sequence[str] | None
) -> tuple[tuple[str, ...], bool, list[tuple[int, ...]], list[tuple[int, ...]]]:
    """(label names, whether multi-label, for each row the indices of its labels and of those that are not known)."""
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
        every = {name for row in rows for name in (*row.image.labels, *row.image.unknown) if name}
        names = config.classes or tuple(given or ()) or tuple(sorted(every, key=_label_order))
    unprintable = [name for name in names if not name.isprintable()]
    if unprintable:
        raise InputError(f"the label {unprintable[0]!r} contains unprintable characters; rename it in the source")
    unknown_names = [row.image.unknown for row in rows]
    multi_label = bool(given) or any(len(labels) > 1 for labels in found) or any(unknown_names)
    position = {name: index for index, name in enumerate(names)}
    indices: list[tuple[int, ...]] = []
    doubtful: list[tuple[int, ...]] = []
    for row, labels in zip(rows, found, strict=True):
        path = row.image.path
        if not labels and not multi_label:
            raise InputError(f"{path} has an empty label; only a multi-label table (labels joined by '|') may")
        strange = [name for name in (*labels, *row.image.unknown) if name not in position]
        if strange:
            known = f"expected one of {', '.join(names)} (--classes)"
            raise InputError(f"{path} has the unknown label {strange[0]!r}; {known}")
        indices.append(tuple(sorted(position[name] for name in labels if name)))
        doubtful.append(tuple(sorted(position[name] for name in row.image.unknown)))
    used = {index for labels in indices for index in labels}
    if len(names) < 2 or (len(used) < 2 and not multi_label):
        raise InputError(
            f"all {len(rows)} images have the label {names[min(used, default=0)] if names else '(none)'}; "
            "a classification data set needs at least two classes, each in a folder of its own"
        )
    return names, multi_label, indices, doubtful


def _label_order(name: str) -> tuple[bool, str, str]:
    return not is_normal(name), name.lower(), name


def _is_normal(row: IndexRow) -> bool:
    return any(is_normal(label) for label in row.image.labels)


def _cause_of(row: IndexRow) -> str | None:
    stated = normalise_cause(row.image.cause) or kermany_cause(row.image.path)
    return "normal" if stated is None and _is_normal(row) else stated


def _assign_patients(rows: Sequence[IndexRow]) -> tuple[list[str], int]:
    """(patient key of each row, how many rows name none)."""
    patients, own = [], 0
    for row in rows:
        path = row.image.path
        named = kermany_patient(path, _is_normal(row)) or nih_patient(path)
        patient = row.image.patient or (row.header and row.header.patient) or named
        own += not patient
        patients.append(patient or row.image.path)
    return patients, own


def _assign_splits(
    rows: Sequence[IndexRow], patients: Sequence[str], labels: Sequence[tuple[int, ...]], config: PreprocessConfig
) -> tuple[list[str], list[str]]:
    """(split of each row, notes)."""
    if config.split == "external":
        return [EXTERNAL_SPLIT] * len(rows), [f"all images went into the split '{EXTERNAL_SPLIT}', to validate on"]
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
        fractions = dict(zip(SPLIT_ORDER, config.fractions or DEFAULT_FRACTIONS, strict=True))
        dealt = deal_patients(_labels_of(patients, labels), fractions, config.seed)
        return [dealt[patient] for patient in patients], []
    if config.fractions is not None:
        raise InputError("--fractions makes new splits, and the source has its own; expected --split patient with it")
    if without:
        raise InputError(
            f"--split folder: {len(without)} of {len(rows)} images have no split, {without[0]} the first; expected "
            "train/, val/, test/ folders or a `split` column. Use --split patient to make splits by patient."
        )
    return _carve_validation([str(split) for split in stated], patients, labels, config)


def _carve_validation(
    splits: list[str], patients: Sequence[str], labels: Sequence[tuple[int, ...]], config: PreprocessConfig
) -> tuple[list[str], list[str]]:
    """(the source's splits with a validation split, where its own is missing or much too small; notes)."""
    counts = collections.Counter(splits)
    fraction = DEFAULT_VAL_FRACTION if config.val_fraction is None else config.val_fraction
    before = counts["train"] + counts["val"]
    if not fraction or not counts["train"] or counts["val"] >= fraction * before / 2:
        return splits, [f"the source's own validation split of {counts['val']} images was kept"] * bool(counts["val"])
    rows = [number for number, split in enumerate(splits) if split in ("train", "val")]
    shares = {"train": 1 - fraction, "val": fraction}
    of = _labels_of([patients[row] for row in rows], [labels[row] for row in rows])
    dealt = deal_patients(of, shares, config.seed)
    for row in rows:
        splits[row] = dealt[patients[row]]
    tiny = f"the source's {counts['val']} validation images were merged into train, and " if counts["val"] else ""
    carved = f"{splits.count('val')} of {before} images"
    return splits, [f"{tiny}{fraction:.0%} of the patients of train, {carved}, were set apart for validation"]


def _labels_of(patients: Sequence[str], labels: Sequence[tuple[int, ...]]) -> dict[str, set[int]]:
    """The labels of each patient's images together."""
    found: dict[str, set[int]] = collections.defaultdict(set)
    for patient, own in zip(patients, labels, strict=True):
        found[patient].update(own)
    return found


def _check_splits(
    images: Sequence[PlannedImage], config: PreprocessConfig, labels: Sequence[str], multi_label: bool, dealt: bool
) -> list[str]:
    """Refuses splits that cannot be used; returns notes."""
    found = sorted({image.split for image in images})
    fractions = zip(SPLIT_ORDER, config.fractions or DEFAULT_FRACTIONS, strict=True)
    expected = {split for split, part in fractions if part} if dealt else set()
    if empty := sorted(expected - set(found)):
        patients = len({image.patient for image in images})
        raise InputError(
            f"the split '{empty[0]}' would be empty: {patients} patients cannot fill {len(expected)} splits. Add "
            "patients, or ask for fewer splits, such as --fractions 0.5,0,0.5, or for one, --split external"
        )
    for split, other in itertools.permutations(found, 2):
        if other.startswith(split):
            both = f"the split names '{split}' and '{other}'"
            raise InputError(f"{both} clash: TFDS needs names that no other begins with")
    for split in found:
        if re.fullmatch(r"\w+", split) is None:
            raise InputError(f"the split name {split!r} contains characters other than letters, digits and _")
    seen = {split: {label for image in images if image.split == split for label in image.labels} for split in found}
    notes = [] if "train" in seen else ["there is no training split: the data set is to evaluate on"]
    for split in found:
        strange = seen[split] - seen.get("train", seen[split])
        names = ", ".join(repr(labels[index]) for index in sorted(strange))
        if strange and not multi_label:
            known = ", ".join(labels[index] for index in sorted(seen["train"]))
            what = f"the label {names} of split '{split}'"
            raise InputError(f"{what} is unknown in train, which has {known}. Is a class misspelt?")
        if strange:
            notes.append(f"no image of train has the labels {names} of split '{split}'")
    return notes


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

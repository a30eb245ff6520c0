"""What a run has to know of its data set to build its model, and to tell whether another data set fits it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr.errors import InputError
from tfrecords.dataset import XrayDataset
from tfrecords.format.choices import check_split
from tfrecords.format.labels import is_normal
from trainer.evaluation.predictions import Task, task_of

TRAIN, VALIDATION = "train", "val"
"""Splits that training reads."""


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """Facts of a data set, stored in the run.

    Attributes:
      path: where it was.
      digest: of its manifest, which covers every shard.
      labels: names, by index.
      multi_label: whether an image may have any number of labels.
      positive: the label whose recall is meant, in a set of two; else None.
      channels: 1 or 3.
      bit_depth: 8 or 16.
      pixel_mean, pixel_std: of the training pixels, in [0, 1] of full scale.
      images: number by split.
      rungs: short sides of its smaller rungs, in pixels.
      scale: bits that the white of 16-bit files has, see `tfrecords.images.scale`.
    """

    path: str
    digest: str
    labels: tuple[str, ...]
    multi_label: bool
    positive: str | None
    channels: int
    bit_depth: int
    pixel_mean: float
    pixel_std: float
    images: Mapping[str, int]
    rungs: tuple[int, ...] = ()
    scale: int = 16

    @property
    def task(self) -> Task:
        """Read from the labels."""
        return task_of(self.labels, self.multi_label)

    @classmethod
    def of(cls, data: XrayDataset, positive: str | None = None) -> DataFacts:
        """Reads them from a data set.

        `positive` is the label to take as the finding; None takes the one that is not named like `normal`, else the
        last.

        Raises:
          InputError: no such label, or fewer than two.
        """
        labels = data.labels
        if len(labels) < 2 and not data.multi_label:
            raise InputError(
                f"{data.root} has one class only, {', '.join(labels)}: there is nothing to tell apart. "
                "Preprocess images of at least two classes"
            )
        binary = len(labels) == 2 and not data.multi_label
        if positive is not None and not binary:
            raise InputError(f"positive={positive!r} is for data sets of two classes; this one has {len(labels)}")
        if positive is not None and positive not in labels:
            raise InputError(f"no label '{positive}'; the data set has {', '.join(labels)}")
        if binary and positive is None:
            named_negative = [label for label in labels if is_normal(label)]
            positive = labels[0] if named_negative == [labels[1]] else labels[1]
        return cls(
            str(data.root.resolve()), data.manifest.digest, labels, data.multi_label, positive, data.channels,
            data.bit_depth, data.pixel_mean, data.pixel_std, {split: data.images(split) for split in data.splits},
            tuple(sorted(rung.size for rung in data.manifest.rungs.values() if rung.size is not None)),
            data.manifest.scale,
        )  # fmt: skip

    def check_same_kind(self, data: XrayDataset) -> None:
        """Raises InputError unless a model made for this data can be asked about the other."""
        pairs = {
            "labels": (", ".join(self.labels), ", ".join(data.labels)),
            "several labels an image": (self.multi_label, data.multi_label),
            "bit depth": (self.bit_depth, data.bit_depth),
        }
        different = [f"{name} {a} in the run, {b} in {data.root}" for name, (a, b) in pairs.items() if a != b]
        if different:
            raise InputError(f"the run and the data set do not fit together: {'; '.join(different)}")

    def to_json(self) -> dict[str, Any]:
        """As values that JSON has."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> DataFacts:
        """From what `to_json` gave."""
        tuples = {name: tuple(fields[name]) for name in ("labels", "rungs")}
        return cls(**{**fields, **tuples, "path": str(Path(fields["path"]))})


def check_trainable(data: XrayDataset, facts: DataFacts, monitor: str) -> None:
    """Raises InputError unless the data set is the one that a run was started on, and can be trained on."""
    if data.manifest.digest != facts.digest:
        raise InputError(
            f"{data.root} is not the data set that the run was started on ({facts.path}), or it has changed since. "
            "Start a new run, with another --run"
        )
    for split in (TRAIN, VALIDATION):
        if split not in data.splits:
            raise InputError(
                f"{data.root} has no split '{split}', but {', '.join(data.splits)}. "
                "`cxr preprocess --val-fraction 0.1` carves a validation split out of train"
            )
        check_split(data.manifest, split)
        present = [label for label, count in data.counts(split).items() if count]
        if len(present) < 2 and not data.multi_label:
            raise InputError(
                f"split '{split}' of {data.root} has one class only, {', '.join(present)}: expected at least two"
            )
    if data.multi_label and monitor in ("val_auc", "val_pr_auc"):
        images = data.images(VALIDATION)
        if not any(0 < count < images for count in data.counts(VALIDATION).values()):
            raise InputError(
                f"no label of split '{VALIDATION}' of {data.root} is on some of its {images} images and not on others, "
                f"so {monitor} is undefined; --monitor val_loss does without"
            )

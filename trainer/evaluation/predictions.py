"""What a classifier said of each image of a split, beside the truth: the input of every figure of an evaluation."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cxr.errors import InputError, OutputError
from cxr.files import write_atomically
from tfrecords.format.shard_index import UNKNOWN

Task = Literal["binary", "multi-class", "multi-label"]
"""One label an image of two, one of more, or any number of labels an image."""
_TEXTS = ("patients", "paths", "causes")


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Probabilities and truth of the images of one split, one row an image.

    Attributes:
      labels: label names; a column of `probabilities` each.
      multi_label: an image has any number of labels instead of exactly one.
      probabilities: float32 [images, labels] in [0, 1]; rows sum to 1 unless multi-label.
      truth: int32 [images], indices into `labels`; where multi-label uint8 [images, labels] of 0, 1, and `UNKNOWN` for
        NaN, as a stream gives a label that is not known.
      rows: int64 [images], places in the stored order of the split; by default 0, 1, ...
      patients: patient keys, text [images]; "" where unknown, which is the default. Bytes, as a stream gives them, are
        decoded.
      paths: paths in the source, text [images].
      causes: causes of the finding, text [images]; "" where unknown.
      subgroups: what else is known of each image, text [images] by name (`tfrecords.format.schema.GROUPS`).

    Raises:
      InputError: shapes that do not fit together, or probabilities that are not finite.
    """

    labels: tuple[str, ...]
    multi_label: bool
    probabilities: np.ndarray
    truth: np.ndarray
    rows: Any = None
    patients: Any = None
    paths: Any = None
    causes: Any = None
    subgroups: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        count = len(self.probabilities)
        arrays = {
            "probabilities": _probabilities(self.probabilities),
            "truth": _truth(self.truth) if self.multi_label else np.asarray(self.truth, np.int32),
            "rows": np.arange(count) if self.rows is None else np.asarray(self.rows, np.int64),
            **{name: _texts(getattr(self, name), count) for name in _TEXTS},
        }
        of_all_labels = (count, len(self.labels))
        for name, array in arrays.items():
            whole = name == "probabilities" or (name == "truth" and self.multi_label)
            expected = of_all_labels if whole else (count,)
            if array.shape != expected:
                raise InputError(f"{name} have the shape {list(array.shape)}; expected {list(expected)}")
            object.__setattr__(self, name, array)
        texts = {name: _texts(values, count) for name, values in self.subgroups.items()}
        object.__setattr__(self, "subgroups", texts)

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def task(self) -> Task:
        """What kind of classification this is."""
        return task_of(self.labels, self.multi_label)

    @property
    def truth_matrix(self) -> np.ndarray:
        """The truth as uint8 [images, labels] of 0 and 1, whatever the task; 0 where it is not known."""
        return (self.truth == 1).astype(np.uint8) if self.multi_label else one_hot(self.truth, len(self.labels))

    @property
    def known(self) -> np.ndarray:
        """Whether it is known that an image has a label or has it not: bool [images, labels]."""
        if self.multi_label:
            return self.truth != UNKNOWN
        return np.ones((len(self), len(self.labels)), bool)

    def is_right(self, predicted: np.ndarray) -> np.ndarray:
        """Whether decisions, of the type and shape of `truth`, are right, for all known labels: bool [images]."""
        right = predicted == self.truth
        return (right | ~self.known).all(axis=1) if self.multi_label else right

    def label_index(self, label: str | None) -> int:
        """Column of a label, by default the last, the positive one of two; raises InputError where there is none."""
        if label is None:
            return len(self.labels) - 1
        if label not in self.labels:
            raise InputError(f"there is no label {label!r}; expected one of {', '.join(self.labels)}")
        return self.labels.index(label)

    def against_rest(self, label: str) -> tuple[np.ndarray, np.ndarray]:
        """Truth, int64 [known] of 0 and 1, and probabilities, float64 [known], of one label, where it is known."""
        column = self.label_index(label)
        known = self.known[:, column]
        scores = self.probabilities[known, column].astype(np.float64)
        return self.truth_matrix[known, column].astype(np.int64), scores

    def chosen_labels(self, chosen: np.ndarray) -> list[tuple[str, ...]]:
        """Names of the labels chosen for each image, of the type and shape of `truth`."""
        rows = chosen == 1 if self.multi_label else one_hot(chosen, len(self.labels))
        return [tuple(itertools.compress(self.labels, row)) for row in rows]

    def groups(self) -> np.ndarray:
        """Number of each image's patient, int64 [images] from 0 without gaps; an unknown patient has one image."""
        own = np.char.add("image ", np.arange(len(self)).astype(str))
        known = np.char.add("patient ", self.patients)
        return np.unique(np.where(self.patients == "", own, known), return_inverse=True)[1].reshape(-1)

    def subset(self, chosen: np.ndarray) -> Predictions:
        """Those of some images, bool [images]."""
        arrays = ("probabilities", "truth", "rows", *_TEXTS)
        subgroups = {name: texts[chosen] for name, texts in self.subgroups.items()}
        return dataclasses.replace(self, subgroups=subgroups, **{name: getattr(self, name)[chosen] for name in arrays})

    def save_csv(self, path: Path, predicted: np.ndarray) -> None:
        """Writes a table, one row an image, so that a reader sees the old file or the new, never a part.

        Columns: row, path, patient, cause, `label` (`labels`, joined by |, where multi-label), predicted, correct
        (1 or 0; all known labels right where multi-label), and `p:LABEL` for each label with all digits of a float32.
        `predicted` is as `OperatingPoint.apply` gives it.

        Raises:
          OutputError: the file cannot be written.
        """
        truth, decided = (map("|".join, self.chosen_labels(chosen)) for chosen in (self.truth, predicted))
        correct = self.is_right(predicted).astype(int)
        head = ["row", "path", "patient", "cause", "labels" if self.multi_label else "label", "predicted", "correct"]
        columns = [self.rows, self.paths, self.patients, self.causes, truth, decided, correct]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow([*head, *(f"p:{label}" for label in self.labels)])
        table.writerows(zip(*columns, *self.probabilities.T.astype(str), strict=True))
        try:
            write_atomically(path, text.getvalue())
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error}") from error


def task_of(labels: Sequence[str], multi_label: bool) -> Task:
    """What kind of classification so many labels make."""
    if multi_label:
        return "multi-label"
    return "binary" if len(labels) == 2 else "multi-class"


def one_hot(indices: np.ndarray, labels: int) -> np.ndarray:
    """uint8 [images, labels] with a 1 at each index of [images]."""
    return (np.asarray(indices)[:, None] == np.arange(labels)).astype(np.uint8)


def _probabilities(given: Any) -> np.ndarray:
    """float32 within [0, 1]; rounding beyond the ends is cut off."""
    values = np.asarray(given, np.float32)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise InputError(
            f"probabilities of {int(bad.sum())} of {len(values)} images are not finite, the first at index "
            f"{int(bad.argmax())}: {values[bad.argmax()].tolist()}. The model has diverged; train it with a lower "
            "learning rate, or in float32."
        )
    return values.clip(0, 1)


def _truth(given: Any) -> np.ndarray:
    """uint8 of 0, 1 and `UNKNOWN`, of numbers that are NaN where a label is not known."""
    values = np.asarray(given)
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), UNKNOWN, values)
    return values.astype(np.uint8)


def _texts(values: Any, count: int) -> np.ndarray:
    if values is None:
        return np.full(count, "")
    if isinstance(values, np.ndarray) and values.dtype.kind == "U":
        return values
    decoded = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
    return np.array(decoded, str)

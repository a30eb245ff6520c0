"""What a classifier said of each image of a split, beside the truth: the input of every figure of an evaluation."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cxr.errors import InputError, OutputError
from cxr.files import write_atomically

Task = Literal["binary", "multi-class", "multi-label"]
"""One label an image of two, one of more, or any number of labels an image."""
_PROBABILITY = "p:"
_TEXTS = ("patients", "paths", "causes")
_SUM_TOLERANCE = 1e-2  # a softmax in half precision


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Probabilities and truth of the images of one split, one row an image.

    Attributes:
      labels: label names; a column of `probabilities` each.
      multi_label: an image has any number of labels instead of exactly one.
      probabilities: float32 [images, labels] in [0, 1]; rows sum to 1 unless multi-label.
      truth: int32 [images], indices into `labels`; uint8 [images, labels] of 0 and 1 where multi-label.
      rows: int64 [images], places in the stored order of the split.
      patients: patient keys, text [images]; "" where unknown. Bytes, as a stream gives them, are decoded.
      paths: paths in the source, text [images].
      causes: causes of the finding, text [images]; "" where unknown. Empty is unknown for all.

    Raises:
      InputError: no images, shapes that do not fit together, or values out of range or not finite.
    """

    labels: tuple[str, ...]
    multi_label: bool
    probabilities: np.ndarray
    truth: np.ndarray
    rows: np.ndarray
    patients: np.ndarray
    paths: np.ndarray
    causes: np.ndarray = dataclasses.field(default_factory=lambda: np.array([], str))

    def __post_init__(self):
        self._set("labels", tuple(self.labels))
        self._check_labels()
        given = np.asarray(self.probabilities)
        if given.ndim != 2 or given.shape[1] != len(self.labels) or not len(given):
            raise InputError(
                f"probabilities have the shape {list(given.shape)}; "
                f"expected [images, {len(self.labels)}] with at least one image, a column for each of "
                f"{', '.join(self.labels)}"
            )
        self._set("probabilities", _probabilities(given, self.multi_label))
        self._set("truth", self._checked_truth())
        self._set("rows", np.asarray(self.rows, np.int64))
        if not len(self.causes):
            self._set("causes", np.full(len(self), ""))
        for name in _TEXTS:
            self._set(name, _texts(getattr(self, name)))
        for name in ("rows", *_TEXTS):
            shape = getattr(self, name).shape
            if shape != (len(self),):
                raise InputError(f"{name} have the shape {list(shape)}; expected one for each of {len(self)} images")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_labels(self) -> None:
        least = 1 if self.multi_label else 2
        if len(self.labels) < least or len(set(self.labels)) != len(self.labels):
            raise InputError(f"labels {list(self.labels)}: expected at least {least}, each once")
        joined = [label for label in self.labels if "|" in label or not label]
        if joined and self.multi_label:
            raise InputError(f"label {joined[0]!r} is empty or has a '|', which separates labels in a table")

    def _checked_truth(self) -> np.ndarray:
        truth = np.asarray(self.truth)
        expected = self.probabilities.shape if self.multi_label else (len(self),)
        if truth.shape != expected:
            raise InputError(f"truth has the shape {list(truth.shape)}; expected {list(expected)}")
        if self.multi_label:
            if not np.isin(truth, (0, 1)).all():
                raise InputError(f"truth of several labels an image must be 0 or 1; received {truth.dtype} others")
            return truth.astype(np.uint8)
        if truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= len(self.labels):
            raise InputError(
                f"truth must be whole numbers from 0 to {len(self.labels) - 1}; "
                f"received {truth.dtype} from {truth.min()} to {truth.max()}"
            )
        return truth.astype(np.int32)

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def task(self) -> Task:
        """What kind of classification this is."""
        return task_of(self.labels, self.multi_label)

    @property
    def truth_matrix(self) -> np.ndarray:
        """The truth as uint8 [images, labels] of 0 and 1, whatever the task."""
        return self.truth if self.multi_label else one_hot(self.truth, len(self.labels))

    def label_index(self, label: str | None) -> int:
        """Column of a label; of the last label for None, which is the positive one of a binary task.

        Raises:
          InputError: there is no such label.
        """
        if label is None:
            return len(self.labels) - 1
        if label not in self.labels:
            raise InputError(f"there is no label {label!r}; expected one of {', '.join(self.labels)}")
        return self.labels.index(label)

    def groups(self) -> np.ndarray:
        """Number of each image's patient, int64 [images] from 0 without gaps; an unknown patient has one image."""
        own = np.char.add("image ", np.arange(len(self)).astype(str))
        known = np.char.add("patient ", self.patients)
        return np.unique(np.where(self.patients == "", own, known), return_inverse=True)[1].reshape(-1)

    def save_csv(self, path: str | Path, predicted: np.ndarray) -> None:
        """Writes a table, one row an image, so that a reader sees the old file or the new, never a part.

        Columns: row, path, patient, cause, `label` (`labels`, joined by |, where multi-label), predicted, correct
        (1 or 0; all labels right where multi-label), and `p:LABEL` for each label with all digits of a float32.

        Args:
          path: file to write; its folder exists.
          predicted: as `OperatingPoint.apply` gives it.

        Raises:
          InputError: `predicted` has not the shape of `truth`.
          OutputError: the file cannot be written.
        """
        predicted = np.asarray(predicted)
        if predicted.shape != self.truth.shape:
            raise InputError(f"predicted has the shape {list(predicted.shape)}; expected {list(self.truth.shape)}")
        correct = (predicted == self.truth).reshape(len(self), -1).all(axis=1).astype(int)
        columns: list[Any] = [self.rows, self.paths, self.patients, self.causes]
        columns += [self._names(self.truth), self._names(predicted), correct, *self.probabilities.T.astype(str)]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        label_column = "labels" if self.multi_label else "label"
        probability_columns = [_PROBABILITY + label for label in self.labels]
        table.writerow(["row", "path", "patient", "cause", label_column, "predicted", "correct", *probability_columns])
        table.writerows(zip(*columns, strict=True))
        try:
            write_atomically(Path(path), text.getvalue())
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error}") from error

    def _names(self, chosen: np.ndarray) -> list[str]:
        if not self.multi_label:
            return [self.labels[index] for index in chosen]
        return ["|".join(np.array(self.labels)[row.astype(bool)]) for row in chosen]

    @classmethod
    def load_csv(cls, path: str | Path) -> Predictions:
        """Reads what `save_csv` wrote; the columns `predicted` and `correct` follow from an operating point.

        Raises:
          InputError: no such file, or not such a table; names the line.
        """
        try:
            with open(path, encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file, strict=True)
                columns = list(reader.fieldnames or ())
                multi_label = "labels" in columns
                label_column = "labels" if multi_label else "label"
                names = [name for name in columns if name.startswith(_PROBABILITY)]
                missing = [name for name in ("row", "path", "patient", "cause", label_column) if name not in columns]
                if missing or not names:
                    raise InputError(
                        f"{path} is no table of predictions: it has no column {', '.join(missing or ['p:LABEL'])}; "
                        "expected a CSV file as `cxr evaluate` writes it"
                    )
                labels = tuple(name.removeprefix(_PROBABILITY) for name in names)
                table: list[tuple[Any, ...]] = []
                for record in reader:
                    try:
                        truth = _truth(record[label_column], labels, multi_label)
                        values = [float(record[name]) for name in names]
                        texts = [record[name] for name in ("patient", "path", "cause")]
                        if None in record or None in texts:
                            raise ValueError("the wrong number of columns")
                        table.append((values, truth, int(record["row"]), *texts))
                    except (ValueError, TypeError, AttributeError) as error:
                        raise InputError(f"{path}, line {reader.line_num}: {error}") from error
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"cannot read {path}: {error}") from error
        if not table:
            raise InputError(f"{path} holds no predictions")
        return cls(labels, multi_label, *(np.array(column) for column in zip(*table, strict=True)))


def task_of(labels: Sequence[str], multi_label: bool) -> Task:
    """What kind of classification so many labels make."""
    if multi_label:
        return "multi-label"
    return "binary" if len(labels) == 2 else "multi-class"


def one_hot(indices: np.ndarray, labels: int) -> np.ndarray:
    """uint8 [images, labels] with a 1 at each index of [images]."""
    return (np.asarray(indices)[:, None] == np.arange(labels)).astype(np.uint8)


def _truth(text: str, labels: tuple[str, ...], multi_label: bool) -> Any:
    names = [name for name in text.split("|") if name] if multi_label else [text]
    unknown = [name for name in names if name not in labels]
    if unknown:
        raise ValueError(f"the label {unknown[0]!r} has no column {_PROBABILITY}{unknown[0]}")
    return [label in names for label in labels] if multi_label else labels.index(text)


def _probabilities(given: np.ndarray, multi_label: bool) -> np.ndarray:
    """float32 within [0, 1], or an InputError that says what is wrong and where."""
    values = given.astype(np.float32)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise InputError(
            f"probabilities of {int(bad.sum())} of {len(values)} images are not finite, the first at index "
            f"{int(bad.argmax())}: {values[bad.argmax()].tolist()}. The model has diverged; train it with a lower "
            "learning rate, or in float32."
        )
    if values.min() < -1e-5 or values.max() > 1 + 1e-5:
        raise InputError(
            f"probabilities are from {values.min()} to {values.max()}; expected [0, 1]. "
            "The model's last layer must be a softmax, or a sigmoid where an image has several labels."
        )
    sums = values.sum(axis=1)
    if not multi_label and np.abs(sums - 1).max() > _SUM_TOLERANCE:
        raise InputError(
            f"probabilities of an image sum to between {sums.min()} and {sums.max()}; expected 1, because an image "
            "has exactly one label. The model's last layer must be a softmax."
        )
    return values.clip(0, 1)


def _texts(values: Any) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.dtype.kind == "U":
        return values
    decoded = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
    return np.array(decoded, str)

"""Can a label be told from the outside of the images alone: borders, collimation, burned-in markers, positioning?

A small model sees nothing but the outer ring of each image (`rings.ring_of`). Where it tells the label of patients
that it was not fitted to, a large model can do so as well, without looking at a lung.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_jobs.execution.rings import VALUES, ring_of
from beam_jobs.planning.splits import hash_fraction
from beam_jobs.results.audit import AuditImage, asked_labels, side_of
from beam_jobs.results.cross_validation import patient_folds, too_few_patients

__all__ = ["RingSample", "label_from_outer_ring", "out_of_fold_scores", "ring_of", "ring_sample"]

MAX_IMAGES = 5_000
"""Images that the model looks at where it is asked for one label..."""
MIN_IMAGES = 1_000
"""... and at least, however many labels it is asked for; each label takes a model of its own."""
COMPONENTS = 50


@dataclasses.dataclass(frozen=True)
class RingSample:
    """The images that the model looks at, in order of path.

    Attributes:
      images: of train, or of all splits where there is no train; patients are whole.
      rings: uint8 [images, rings.VALUES].
      labels: names of those that it is asked for.
      sides: [images, labels] 1 where an image has the label, 0 where not, NaN where nobody knows.
    """

    images: tuple[AuditImage, ...]
    rings: np.ndarray
    labels: tuple[str, ...]
    sides: np.ndarray

    @property
    def patients(self) -> np.ndarray:
        """The patient of each image."""
        return np.array([image.patient for image in self.images])


def ring_sample(
    images: Sequence[AuditImage], labels: Sequence[str], files: Sequence[tuple[Path, Sequence[str]]]
) -> RingSample:
    """Chooses images by a hash of their patients, and reads their rings.

    Args:
      images: the whole data set, in any order.
      labels: label names.
      files: of each shard, where its rings lie, and the paths of its images in order.
    """
    train = [image for image in images if image.split == "train"] or images
    asked = asked_labels(train, labels)
    most = max(MIN_IMAGES, round(MAX_IMAGES / math.sqrt(max(1, len(asked)))))
    chosen = sorted(_whole_patients(train, most), key=lambda image: image.path)
    row = {image.path: number for number, image in enumerate(chosen)}
    rings = np.empty((len(chosen), VALUES), np.uint8)
    for file, paths in files:
        places = [place for place, path in enumerate(paths) if path in row]
        if places:
            rings[[row[paths[place]] for place in places]] = np.load(file)[places]
    sides = np.array([[side_of(image, index) for index in asked] for image in chosen], float)
    sides = sides.reshape(len(chosen), len(asked))
    return RingSample(tuple(chosen), rings, tuple(labels[index] for index in asked), sides)


def _whole_patients(images: Sequence[AuditImage], most: int) -> list[AuditImage]:
    """All images of so many patients that there are about `most`: the first patients by a hash."""
    of_patient = collections.defaultdict(list)
    for image in images:
        of_patient[image.patient].append(image)
    chosen: list[AuditImage] = []
    for patient in sorted(of_patient, key=lambda patient: (hash_fraction("outer ring", patient), patient)):
        if len(chosen) >= most:
            break
        chosen += of_patient[patient]
    return chosen


def out_of_fold_scores(rings: np.ndarray, sides: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """What a model of the ring says of each image, fitted to other patients only; higher where it expects the label.

    The rings are standardised and reduced to `COMPONENTS` principal components, once and without labels; on these, for
    each label, a support vector machine with a Gaussian kernel, cross-validated with folds of whole patients.

    Args:
      rings: uint8 [images, values].
      sides: [images, labels] 1, 0, or NaN where the label is not known.
      patients: of each image, text [images].

    Returns:
      [images, labels] distance from the margin; NaN where the label is not known, and where there are too few patients
      with it or without it.
    """
    from sklearn.decomposition import PCA
    from sklearn.model_selection import cross_val_predict
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC
    from threadpoolctl import threadpool_limits

    scores = np.full(sides.shape, np.nan)
    known = ~np.isnan(sides)
    measured = [label for label, side in enumerate(sides.T) if not too_few_patients(*_known(side, patients))]
    if not measured:
        return scores
    # in one thread, so that sums are made in the same order every time
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rare class may be missing from one fold; the joined AUC is still defined
        standard = StandardScaler().fit_transform(rings.astype(np.float32))
        reduce = PCA(min(COMPONENTS, *standard.shape), svd_solver="randomized", random_state=0)
        points = reduce.fit_transform(standard).astype(float)
        for label in measured:
            rows = known[:, label]
            target = sides[rows, label] == 1
            scores[rows, label] = cross_val_predict(
                SVC(), points[rows], target, groups=patients[rows], cv=patient_folds(), method="decision_function"
            )
    return scores


def _known(side: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bool, patients) of the images of which a label is known."""
    rows = ~np.isnan(side)
    return side[rows] == 1, patients[rows]


def label_from_outer_ring(sample: RingSample, scores: np.ndarray) -> dict[str, Any]:
    """How well the ring tells each label: JSON types, with `auc` in [0, 1] and `images`; or `skipped`, with the reason.

    Args:
      sample: what the model saw.
      scores: its `out_of_fold_scores`.
    """
    from sklearn.metrics import roc_auc_score

    found: dict[str, Any] = {}
    for name, side, score in zip(sample.labels, sample.sides.T, scores.T, strict=True):
        target, patients = _known(side, sample.patients)
        reason = too_few_patients(target, patients)
        if reason:
            found[name] = {"skipped": reason}
        else:
            auc = float(roc_auc_score(target, score[~np.isnan(side)]))
            found[name] = {"auc": round(auc, 4), "images": len(target)}
    return found

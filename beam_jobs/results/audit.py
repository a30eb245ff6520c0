"""What is treacherous about a data set: duplicates, patients across splits, imbalance, and labels that can be
read off the files, or off the outside of the images, instead of the lungs. Written to audit.json and printed.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beam_jobs.planning.plan import split_order
from beam_jobs.results.cross_validation import patient_folds, too_few_patients
from tfrecords.images.decode import ImageHeader

WARN_AUC = 0.7
"""Cross-validated AUC from which on the encoding is said to give the label away."""
WARN_RING_AUC = 0.8
"""The same for the outer ring of the images. Higher, for shoulders and arms in it may well differ with a disease..."""
STRONG_RING_AUC = 0.9
"""... and from here on the label is said to be told easily."""
MAX_IMAGES = 5_000
"""Images that the encoding model looks at; more add time, not certainty."""
_GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "MONOCHROME1", "MONOCHROME2")
ENCODING_FEATURES = (
    "bytes per pixel", "luma quantisation", "ICC profile", "progressive", "three channels stored",
    "format", "width", "height", "aspect ratio",
)  # fmt: skip
"""What a model of the encoding sees of an image; nothing of its content."""


@dataclasses.dataclass(frozen=True)
class AuditImage:
    """What the audit looks at.

    Attributes:
      path, split, patient: of the image.
      labels: indices into the label names.
      pixel_hash: equal for equal pixels.
      header: of the source file.
      bytes: of the source file.
      unknown: indices of labels of which nobody knows whether the image has them.
    """

    path: str
    split: str
    patient: str
    labels: tuple[int, ...]
    pixel_hash: str
    header: ImageHeader
    bytes: int
    unknown: tuple[int, ...] = ()


def audit(
    images: Sequence[AuditImage], labels: Sequence[str], notes: Sequence[str] = (),
    outer_ring: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Audits a data set.

    Args:
      images: all of it, in any order.
      labels: label names.
      notes: what planning decided; passed on.
      outer_ring: what `outer_ring.label_from_outer_ring` found.

    Returns:
      JSON types: `duplicates`, `patients_across_splits`, `balance`, `label_from_encoding`, `label_from_outer_ring`,
      `split_from_encoding`, `notes`, and `warnings` as sentences.
    """
    images = sorted(images, key=lambda image: image.path)
    features = encoding_features(images)
    report: dict[str, Any] = {
        "duplicates": _find_duplicates(images, labels),
        "patients_across_splits": _find_patients_across_splits(images),
        "balance": _balance(images, labels),
        "label_from_encoding": _label_from_encoding(images, features, labels),
        "label_from_outer_ring": dict(outer_ring or {}),
        "split_from_encoding": _split_from_encoding(images, features),
        "notes": list(notes),
    }
    report["warnings"] = _warnings(report)
    return report


def _find_duplicates(images: Sequence[AuditImage], labels: Sequence[str]) -> dict[str, Any]:
    by_hash = collections.defaultdict(list)
    for image in images:
        by_hash[image.pixel_hash].append(image)
    groups = [
        {
            "pixel_hash": pixel_hash,
            "paths": [image.path for image in members],
            "splits": sorted({image.split for image in members}),
            "labels": sorted({"|".join(labels[index] for index in image.labels) for image in members}),
            "patients": sorted({image.patient for image in members}),
        }
        for pixel_hash, members in by_hash.items()
        if len(members) > 1
    ]
    return {
        "groups": groups,
        "extra_copies": sum(len(group["paths"]) - 1 for group in groups),
        "across_splits": sum(len(group["splits"]) > 1 for group in groups),
        "across_labels": sum(len(group["labels"]) > 1 for group in groups),
        "across_patients": sum(len(group["patients"]) > 1 for group in groups),
    }


def _find_patients_across_splits(images: Sequence[AuditImage]) -> list[dict[str, Any]]:
    splits: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for image in images:
        splits[image.patient][image.split] += 1
    return [
        {"patient": patient, "images": dict(sorted(counts.items()))}
        for patient, counts in sorted(splits.items())
        if len(counts) > 1
    ]


def _balance(images: Sequence[AuditImage], labels: Sequence[str]) -> dict[str, Any]:
    counts: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    totals: collections.Counter[str] = collections.Counter()
    for image in images:
        totals[image.split] += 1
        counts[image.split].update(image.labels)
    return {
        split: {
            "images": totals[split],
            "labels": {name: counts[split][index] for index, name in enumerate(labels)},
            "shares": {name: round(counts[split][index] / totals[split], 4) for index, name in enumerate(labels)},
        }
        for split in sorted(totals, key=split_order)
    }


def encoding_features(images: Sequence[AuditImage]) -> np.ndarray:
    """`ENCODING_FEATURES` of each image: float64 [images, features]; NaN where a format has no such thing."""
    formats = {name: number for number, name in enumerate(sorted({image.header.format for image in images}))}
    rows = []
    for image in images:
        header = image.header
        pixels = max(1, header.width * header.height)
        rows.append(
            (
                math.log2(max(1, image.bytes) / pixels),
                float(np.mean(header.quantisation)) if header.quantisation else math.nan,
                float(header.icc_profile),
                float(header.progressive),
                float(header.mode not in _GREY_MODES),
                float(formats[header.format]),
                float(header.width),
                float(header.height),
                header.width / header.height,
            )
        )
    return np.array(rows, float).reshape(len(rows), len(ENCODING_FEATURES))


def cross_validated_auc(features: np.ndarray, target: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """How well a small model tells `target` from `features`, on patients that it was not fitted to.

    A random forest, 5-fold cross-validation stratified by class and grouped by patient, AUC over the joined
    out-of-fold scores; and for each feature alone, the AUC of its plain order.

    Args:
      features: float [images, features].
      target: bool [images].
      groups: patient of each image, text [images].

    Returns:
      `auc` in [0, 1], `single` feature AUCs in [0.5, 1] by name, and `images`; or `skipped`, with the reason.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict

    if reason := too_few_patients(target, groups):
        return {"skipped": reason}
    if len(target) > MAX_IMAGES:
        chosen = np.random.default_rng(0).choice(len(target), MAX_IMAGES, replace=False)
        features, target, groups = features[chosen], target[chosen], groups[chosen]
    known = np.where(np.isnan(features), -1.0, features)
    # in one thread, so that the scores are summed in the same order every time
    model = RandomForestClassifier(100, min_samples_leaf=3, class_weight="balanced", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rare class may be missing from one fold; the joined AUC is still defined
        both = cross_val_predict(model, known, target, groups=groups, cv=patient_folds(), method="predict_proba")
    scores = both[:, 1]
    single = {
        name: round(max(auc, 1 - auc), 4)
        for name, column in zip(ENCODING_FEATURES, known.T, strict=True)
        for auc in [float(roc_auc_score(target, column))]
    }
    return {"auc": round(float(roc_auc_score(target, scores)), 4), "single": single, "images": len(target)}


def asked_labels(images: Sequence[AuditImage], labels: Sequence[str]) -> range:
    """The labels to ask for: all but the first of two that exclude each other, all of any others."""
    multi_label = any(len(image.labels) != 1 or image.unknown for image in images)
    return range(1 if len(labels) == 2 and not multi_label else 0, len(labels))


def side_of(image: AuditImage, label: int) -> float:
    """1 where an image has a label, 0 where not, and NaN where nobody knows."""
    return math.nan if label in image.unknown else float(label in image.labels)


def _label_from_encoding(images: Sequence[AuditImage], features: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """For each label that is asked for: can the encoding predict it, within train?"""
    train = np.array([image.split == "train" for image in images], bool)
    asked = asked_labels([image for image in images if image.split == "train"], labels)
    return {
        labels[index]: _tell(images, features, train, [side_of(image, index) for image in images]) for index in asked
    }


def _split_from_encoding(images: Sequence[AuditImage], features: np.ndarray) -> dict[str, Any]:
    """For each split but train: are its files encoded differently from those of train?"""
    found = {}
    for split in sorted({image.split for image in images} - {"train"}, key=split_order):
        both = np.array([image.split in ("train", split) for image in images], bool)
        found[split] = _tell(images, features, both, [float(image.split == split) for image in images])
    return found


def _tell(
    images: Sequence[AuditImage], features: np.ndarray, chosen: np.ndarray, sides: Sequence[float]
) -> dict[str, Any]:
    """How well the encoding tells, among the chosen images, which side each is on; 1, 0, or NaN to leave it out."""
    known = chosen & ~np.isnan(np.array(sides, float))
    patients = np.array([image.patient for image in images])
    return cross_validated_auc(features[known], np.array(sides)[known] == 1, patients[known])


def most_telling(result: dict[str, Any]) -> str:
    """The three properties with the highest AUC of a result of `cross_validated_auc`, and these."""
    best = sorted(result["single"].items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {auc:.2f}" for name, auc in best)


def _warnings(report: dict[str, Any]) -> list[str]:
    found = []
    for label, result in report["label_from_encoding"].items():
        if result.get("auc", 0) > WARN_AUC:
            found.append(
                f"SHORTCUT: the label '{label}' can be predicted from the encoding alone, AUC {result['auc']:.3f} "
                f"({most_telling(result)}). A model may learn the files instead of "
                "the lungs: train with re-compression, and test on images that were encoded otherwise."
            )
    for label, result in report["label_from_outer_ring"].items():
        if result.get("auc", 0) >= WARN_RING_AUC:
            told = "told easily" if result["auc"] >= STRONG_RING_AUC else "told"
            found.append(
                f"OUTSIDE: the label '{label}' can be {told} from the outer ring of the images alone, AUC "
                f"{result['auc']:.3f}: borders, collimation, markers, burned-in text or positioning differ with it. A "
                "model may learn these instead of the lungs, and then fails elsewhere: test it on images of another "
                "hospital, and train with shifts, zoom and erasing (cxr train --augment strong); audit.html shows where"
            )
    for split, result in report["split_from_encoding"].items():
        if result.get("auc", 0) > WARN_AUC:
            what = f"images of '{split}' are encoded differently from those of 'train'"
            found.append(f"SHIFT: {what}, AUC {result['auc']:.3f}")
    duplicates = report["duplicates"]
    if duplicates["extra_copies"]:
        found.append(
            f"DUPLICATES: {duplicates['extra_copies']} images repeat the pixels of another "
            f"({len(duplicates['groups'])} groups; {duplicates['across_splits']} across splits, "
            f"{duplicates['across_labels']} across labels); --duplicates drop leaves one of each"
        )
    if report["patients_across_splits"]:
        found.append(
            f"LEAKAGE: {len(report['patients_across_splits'])} patients have images in more than one split; "
            "--split patient keeps each in one"
        )
    found += [
        f"BALANCE: split '{split}' has no image of {name}"
        for split, balance in report["balance"].items()
        for name, count in balance["labels"].items()
        if count == 0
    ]
    return found

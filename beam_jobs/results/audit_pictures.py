"""The pictures of audit.html: examples, duplicates, and what the outside of the images looks like in each class.

Which images are shown is a function of the data set; how many, is bounded, so that the page stays small.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from beam_jobs.execution.rings import INSIDE, SIDE, eight_bits
from beam_jobs.execution.shard_writer import ShardResult, ShardSettings, shard_paths
from beam_jobs.planning.plan import ShardPlan, split_order
from beam_jobs.planning.splits import hash_fraction
from beam_jobs.results.audit import AuditImage
from beam_jobs.results.outer_ring import RingSample
from tfrecords.format.shard_index import read_numbers
from tfrecords.format.shards import FULL_RUNG, index_path
from tfrecords.images import codec

THUMBNAIL = 96
"""Long side of a small picture, pixels."""
EXAMPLES = 4
"""Images shown of each class of a split."""
CLASSES = 10
"""Classes of which examples are shown..."""
SPLITS = 3
"""... and splits, those with the most known names first."""
RINGS = 4
"""Labels of which the mean rings are shown, those that are told best."""
GROUPS = 6
"""Groups of duplicates shown..."""
MEMBERS = 4
"""... and images of each."""
_ENLARGED = 3
_PLAIN = 232
"""Grey of the inside, of which a ring says nothing."""
_FULL_COLOUR = 96
"""Difference, of 255 grey levels, that has full colour; the same on every page, so that noise stays pale."""
_LOWER, _HIGHER = np.array([0, 114, 178]), np.array([213, 94, 0])


@dataclasses.dataclass(frozen=True)
class Shown:
    """A picture and what is written below it.

    Attributes:
      pixels: uint8 [height, width, 1 or 3].
      caption: its lines.
    """

    pixels: np.ndarray
    caption: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class AuditPictures:
    """All pictures of the page.

    Attributes:
      rings: by label, the mean ring of the images without it and with it, and the difference.
      examples: by split and label.
      duplicates: some groups of equal pixels.
    """

    rings: Mapping[str, Sequence[Shown]]
    examples: Mapping[str, Mapping[str, Sequence[Shown]]]
    duplicates: Sequence[Sequence[Shown]]


Finished = Sequence[tuple[ShardPlan, ShardResult]]


def draw_pictures(
    settings: ShardSettings, finished: Finished, images: Sequence[AuditImage], labels: Sequence[str],
    report: Mapping[str, Any], sample: RingSample,
) -> AuditPictures:  # fmt: skip
    """Draws all pictures, of images that are read back from the finished shards.

    Args:
      settings, finished: of the shards.
      images: the whole data set, in any order.
      labels: label names.
      report: the audit.
      sample: what the model of the outer ring saw.
    """
    examples = _choose_examples(images, labels)
    groups = [group["paths"][:MEMBERS] for group in _choose_groups(report["duplicates"]["groups"])]
    of_split = (paths for of_label in examples.values() for paths in of_label.values())
    wanted = {path for paths in (*of_split, *groups) for path in paths}
    thumbnails = read_thumbnails(settings, finished, wanted)
    by_path = {image.path: image for image in images}

    def show(path: str) -> Shown:
        image = by_path[path]
        names = "|".join(labels[index] for index in image.labels)
        return Shown(thumbnails[path], (f"{image.split}: {names}", path))

    return AuditPictures(
        ring_pictures(sample, labels, report["label_from_outer_ring"]),
        {
            split: {label: [show(path) for path in paths] for label, paths in of_label.items()}
            for split, of_label in examples.items()
        },
        [[show(path) for path in group] for group in groups],
    )


def _choose_examples(images: Sequence[AuditImage], labels: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Paths by split and label, by a hash of the path."""
    chosen: dict[str, dict[str, list[str]]] = {}
    for split in sorted({image.split for image in images}, key=split_order)[:SPLITS]:
        shuffled = sorted(
            (hash_fraction("example", image.path), image.path, image.labels) for image in images if image.split == split
        )
        of_label = {
            name: [path for _, path, own in shuffled if index in own][:EXAMPLES]
            for index, name in enumerate(labels[:CLASSES])
        }
        chosen[split] = {name: paths for name, paths in of_label.items() if paths}
    return chosen


def _choose_groups(groups: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The worst groups of duplicates first: of several labels, then splits, then patients."""
    harm = [(-len(group["labels"]), -len(group["splits"]), -len(group["patients"])) for group in groups]
    order = sorted(range(len(groups)), key=lambda number: (harm[number], number))
    return [groups[number] for number in order[:GROUPS]]


def read_thumbnails(settings: ShardSettings, finished: Finished, wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """Small pictures by path: uint8 [height, width, 1 or 3], the long side at most `THUMBNAIL`.

    They are made from the smallest rung that is large enough.

    Raises:
      CxrError: a shard is damaged.
    """
    wanted = set(wanted)
    large_enough = [size for size in settings.sizes if size >= THUMBNAIL]
    rung = str(min(large_enough)) if large_enough else FULL_RUNG
    found = {}
    for plan, result in finished:
        rows = [number for number, image in enumerate(result.images) if image.path in wanted]
        if not rows:
            continue
        path = shard_paths(settings, plan)[rung]
        places = read_numbers(index_path(path), result.files[rung], settings.labels if settings.multi_label else None)
        with open(path, "rb") as shard:
            for row in rows:
                shard.seek(int(places["offset"][row]))
                record = settings.schemas[rung].parse(shard.read(int(places["length"][row])))
                found[record.path] = _thumbnail(codec.decode(record))
    return found


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    height, width, channels = pixels.shape
    factor = THUMBNAIL / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if factor < 1:
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], channels)
    return eight_bits(pixels)


def ring_pictures(
    sample: RingSample, labels: Sequence[str], found: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[Shown]]:
    """For the labels that the ring tells best: the mean ring without the label, with it, and the difference."""
    measured = sorted((name for name in found if "auc" in found[name]), key=lambda name: -found[name]["auc"])
    other = labels[0] if len(labels) == 2 and list(found) == [labels[1]] else ""
    pictures = {}
    for name in measured[:RINGS]:
        side = sample.sides[:, sample.labels.index(name)]
        without, having = (sample.rings[side == value].mean(axis=0) for value in (0, 1))
        difference = having - without
        most = f"{np.abs(difference).max():.0f} of 255 levels at most"
        counts = [f"mean of {(side == value).sum():,} images" for value in (0, 1)]
        pictures[name] = [
            Shown(_enlarge(without[:, None]), (other or f"without {name}", counts[0])),
            Shown(_enlarge(having[:, None]), (name, counts[1])),
            Shown(
                _enlarge(_in_colour(difference)),
                ("difference", f"orange: {name} is brighter; blue: it is darker", most),
            ),
        ]
    return pictures


def _enlarge(ring: np.ndarray) -> np.ndarray:
    """A ring, [VALUES, channels], around a plain inside: uint8 [height, width, channels]."""
    picture = np.full((SIDE, SIDE, ring.shape[1]), _PLAIN, np.uint8)
    picture[~INSIDE] = np.round(ring)
    return picture.repeat(_ENLARGED, 0).repeat(_ENLARGED, 1)


def _in_colour(difference: np.ndarray) -> np.ndarray:
    """White where there is no difference, [VALUES, 3]."""
    strength = np.clip(np.abs(difference) / _FULL_COLOUR, 0, 1)[:, None]
    return 255 - strength * (255 - np.where(difference[:, None] > 0, _HIGHER, _LOWER))

"""The example images of a report: the worst mistakes and a few right answers, with Grad-CAM heat maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from tfrecords.dataset import XrayDataset
from tfrecords.images.codec import lower_depth
from tfrecords.images.fit import fit
from tfrecords.streaming.loader import open_loader
from trainer.evaluation.operating_point import OperatingPoint
from trainer.evaluation.predictions import Predictions, one_hot
from trainer.train_config import TrainConfig
from trainer.training.inputs import native_batch

if TYPE_CHECKING:
    import keras

MISTAKES = 12
"""Mistakes shown of a kind, at most."""
RIGHT = 4
"""Right answers shown of a kind, at most."""
SIDE = 384
"""Longest side of a picture, pixels."""
_TILE, _CAPTION = 256, 54


@dataclasses.dataclass(eq=False)
class Example:
    """An image to show.

    Attributes:
      index: of the image in the predictions.
      label: column of the label in question, which the heat map is of.
      score: probability of that label.
      text: the truth and the model's answer.
      image: uint8 [height, width, 1 or 3], the whole image, at most SIDE pixels a side; see `read_pictures`.
      heat: the same under a Grad-CAM heat map, uint8 [height, width, 3]; None if the model has no feature map.
    """

    index: int
    label: int
    score: float
    text: str
    image: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((1, 1, 1), np.uint8))
    heat: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Group:
    """Examples of a kind.

    Attributes:
      title: heading.
      mistakes: whether the model was wrong.
      total: how many images there are of the kind.
      examples: those shown.
    """

    title: str
    mistakes: bool
    total: int
    examples: list[Example]


def choose_examples(predictions: Predictions, point: OperatingPoint, positive: str | None) -> list[Group]:
    """The most confident mistakes and the most confident right answers, in groups; empty groups are left out.

    `positive` is the label of a binary task.
    """
    decided = point.apply(predictions)
    if predictions.task == "multi-class":
        groups = _of_classes(predictions, decided)
    elif predictions.task == "multi-label":
        columns = range(len(predictions.labels))
        groups = _of_labels(predictions, decided, columns, ("False alarms", "Missed findings", "Found"))
    else:
        column = predictions.label_index(positive)
        label, other = predictions.labels[column], predictions.labels[1 - column]
        titles = (
            f"False alarms: called {label}, but {other}",
            f"Missed: {label}, but called {other}",
            f"Found: {label}, and called so",
            f"Rightly called {other}",
        )
        groups = _of_labels(predictions, one_hot(decided, 2), [column], titles)
    return [group for group in groups if group.examples]


def _of_labels(
    predictions: Predictions, decided: np.ndarray, columns: Sequence[int], titles: Sequence[str]
) -> list[Group]:
    """Groups for yes-or-no decisions, uint8 [images, labels], on the labels in `columns`; a group for each title."""
    has, said = (part[:, columns] == 1 for part in (predictions.truth_matrix, decided))
    known = predictions.known[:, columns]
    scores = predictions.probabilities[:, columns]
    kinds = ((~has & said & known, True), (has & ~said, False), (has & said, True), (~has & ~said & known, False))
    groups: list[Group] = []
    for title, (chosen, high_first) in zip(titles, kinds, strict=False):
        mistakes = len(groups) < 2
        images, places = np.nonzero(chosen)
        sign = -1 if high_first else 1
        order = np.argsort(sign * scores[images, places], kind="stable")[: MISTAKES if mistakes else RIGHT]
        chosen = zip(images[order], places[order], strict=True)
        examples = [_example(predictions, image, columns[place]) for image, place in chosen]
        groups.append(Group(title, mistakes, len(images), examples))
    return groups


def _of_classes(predictions: Predictions, decided: np.ndarray) -> list[Group]:
    """Groups for decisions between several labels, int32 [images]."""
    most_confident = np.argsort(-predictions.probabilities[np.arange(len(predictions)), decided], kind="stable")
    is_right = (decided == predictions.truth)[most_confident]
    wrong, right = most_confident[~is_right], most_confident[is_right]
    rank = np.zeros(len(right), int)  # among those of the same label
    for label in np.unique(decided):
        of_label = decided[right] == label
        rank[of_label] = np.arange(of_label.sum())
    right = right[np.lexsort((decided[right], rank))]  # the most confident of each label in turn

    def examples(images: np.ndarray) -> list[Example]:
        return [_example(predictions, image, decided[image]) for image in images]

    return [
        Group("Wrong labels", True, len(wrong), examples(wrong[: 2 * MISTAKES])),
        Group("Right labels", False, len(right), examples(right[: 2 * RIGHT])),
    ]


def _example(predictions: Predictions, image: int, column: int) -> Example:
    name, score = predictions.labels[column], float(predictions.probabilities[image, column])
    if predictions.multi_label:
        case = f"has {name}" if predictions.truth[image, column] else f"has no {name}"
    else:
        case = f"is {predictions.labels[predictions.truth[image]]}"
    return Example(int(image), int(column), score, f"{case}; p({name}) = {score:.3f}")


def read_pictures(
    groups: Sequence[Group], predictions: Predictions, data: XrayDataset, split: str, model: keras.Model,
    config: TrainConfig,
) -> str:  # fmt: skip
    """Adds the pictures to all examples; returns why there are no heat maps, or "".

    Reads only the records shown: for the page from the smallest rung that is large enough, and for the model at its
    input size.

    Raises:
      DatasetError: a record is damaged.
    """
    from trainer.report.gradcam import has_feature_map, overlay  # loads Keras, which the rest of a report does not need

    examples = [example for group in groups for example in group.examples]
    rows = [int(predictions.rows[example.index]) for example in examples]
    reader = open_loader(data.root, data.manifest.digest, data.options(split, image_size=SIDE)).reader
    for example, row in zip(examples, rows, strict=True):
        example.image = _shrink(lower_depth(reader.image(row)))
    if not has_feature_map(model):
        return "The model has no feature map, so Grad-CAM cannot say where it looks."
    if examples:
        heats = _heat_maps(model, data, split, config, rows, [example.label for example in examples])
        for example, heat in zip(examples, heats, strict=True):
            height, width = example.image.shape[:2]
            example.heat = overlay(example.image, place_heat(heat, config.fit, height, width))
    return ""


def _heat_maps(
    model: keras.Model, data: XrayDataset, split: str, config: TrainConfig, rows: list[int], labels: list[int]
) -> list[np.ndarray]:
    """Grad-CAM of each row for its label: float32 [fed height, fed width] in [0, 1], without padding."""
    from trainer.report.gradcam import gradcam

    channels = model.inputs[0].shape[-1]
    options = data.options(split, image_size=config.size, fit=config.fit, channels=channels)
    reader = open_loader(data.root, data.manifest.digest, options).reader
    images = [reader.image(row) for row in rows]
    if config.size is None:
        return [
            gradcam(model, native_batch(image), [label])[0, : image.shape[0], : image.shape[1]]
            for image, label in zip(images, labels, strict=True)
        ]
    fed = np.zeros((len(rows), *config.size, channels), reader.dtype)
    for image, out in zip(images, fed, strict=True):
        fit(image, out, options.fit)
    return list(gradcam(model, fed, labels))


def place_heat(heat: np.ndarray, how: str, height: int, width: int) -> np.ndarray:
    """A heat map of the model's input, placed over the whole image; undoes `tfrecords.images.fit.fit`.

    Args:
      heat: float32 [fed height, fed width] in [0, 1].
      how: `squash`, `pad` or `crop`.
      height, width: of the whole image as shown.

    Returns:
      float32 [height, width] in [0, 1]; 0 where the model saw nothing.
    """
    fed_height, fed_width = heat.shape
    shown, whole = heat.shape, (height, width)
    scales = fed_height / height, fed_width / width
    if how == "pad":
        inner = (max(1, round(side * min(scales))) for side in whole)
        shown = tuple(map(min, heat.shape, inner))
    part = whole
    if how == "crop":
        part = tuple(min(side, round(fed / max(scales))) for side, fed in zip(whole, heat.shape, strict=True))
    placed = np.zeros(whole, np.float32)
    seen = np.ascontiguousarray(heat[_middle(heat.shape, shown)])
    placed[_middle(whole, part)] = cv2.resize(seen, part[::-1], interpolation=cv2.INTER_LINEAR)
    return placed


def _middle(size: Sequence[int], part: Sequence[int]) -> tuple[slice, ...]:
    """Where the middle of an array is, of a part of its size."""
    starts = [(whole - inner) // 2 for whole, inner in zip(size, part, strict=True)]
    return tuple(slice(start, start + inner) for start, inner in zip(starts, part, strict=True))


def _shrink(pixels: np.ndarray) -> np.ndarray:
    """At most SIDE pixels a side; never enlarged."""
    height, width, channels = pixels.shape
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], channels)


def contact_sheet(groups: Sequence[Group], predictions: Predictions, mistakes: bool) -> np.ndarray | None:
    """The mistakes, or the right answers, on one sheet, each beside its heat map.

    uint8 [height, width, 3]; None if there is nothing to draw.
    """
    chosen = [(group.title, example) for group in groups if group.mistakes == mistakes for example in group.examples]
    if not chosen:
        return None
    pair = _TILE * (2 if chosen[0][1].heat is not None else 1)
    columns = min(len(chosen), 3 if pair > _TILE else 6)
    rows = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (columns * (pair + 8), rows * (_TILE + _CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 12)
    for number, (title, example) in enumerate(chosen):
        left, top = number % columns * (pair + 8), number // columns * (_TILE + _CAPTION)
        for place, pixels in enumerate(one for one in (example.image, example.heat) if one is not None):
            tile = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
            sheet.paste(ImageOps.pad(tile, (_TILE - 2, _TILE - 2), color="white"), (left + place * _TILE + 1, top + 1))
        for line, text in enumerate((title, example.text, str(predictions.paths[example.index]))):
            draw.text((left + 4, top + _TILE + 1 + 16 * line), _cut(text, font, pair - 8), "#20252b", font)
    return np.asarray(sheet)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, cut at the front to fit into `width` pixels."""
    whole = " ".join(text.split())
    shorter = ("\u2026" + whole[start:] for start in range(len(whole) + 1))
    return next(shown for shown in (whole, *shorter) if font.getlength(shown) <= width)

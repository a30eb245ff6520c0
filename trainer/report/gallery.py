"""The example images of a report: the worst mistakes and a few right answers, with Grad-CAM heat maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cxr.errors import InputError
from tfrecords.dataset import XrayDataset
from tfrecords.images.fit import fit
from tfrecords.streaming.loader import open_loader
from trainer.evaluation.operating_point import OperatingPoint
from trainer.evaluation.predictions import Predictions
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


@dataclasses.dataclass(frozen=True)
class Example:
    """An image to show.

    Attributes:
      index: of the image in the predictions.
      label: column of the label in question, which the heat map is of.
      score: probability of that label.
      text: the truth and the model's answer.
    """

    index: int
    label: int
    score: float
    text: str


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
    examples: tuple[Example, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """Pixels of an example.

    Attributes:
      image: uint8 [height, width, 1 or 3], the whole image, at most SIDE pixels a side.
      heat: the same under a Grad-CAM heat map, uint8 [height, width, 3]; None if the model has no feature map.
    """

    image: np.ndarray
    heat: np.ndarray | None


def choose_examples(predictions: Predictions, point: OperatingPoint, positive: str | None) -> list[Group]:
    """The most confident mistakes and the most confident right answers, in groups; empty groups are left out.

    Args:
      predictions: of the split.
      point: operating point.
      positive: label of a binary task.
    """
    decided = point.apply(predictions)
    if predictions.task == "multi-class":
        groups = _of_classes(predictions, decided)
    else:
        columns = np.arange(len(predictions.labels))
        if predictions.task == "binary":
            columns = columns[[predictions.label_index(positive)]]
            decided = (decided[:, None] == np.arange(2)).astype(np.uint8)
        groups = _of_labels(predictions, decided, columns)
    return [group for group in groups if group.examples]


def _of_labels(predictions: Predictions, decided: np.ndarray, columns: np.ndarray) -> list[Group]:
    """Groups for yes-or-no decisions, uint8 [images, labels], on the labels in `columns`."""
    binary = predictions.task == "binary"
    if binary:
        label = predictions.labels[columns[0]]
        other = predictions.labels[1 - columns[0]]
        titles = (
            f"False alarms: called {label}, but {other}",
            f"Missed: {label}, but called {other}",
            f"Found: {label}, and called so",
            f"Rightly called {other}",
        )
    else:
        titles = ("False alarms", "Missed findings", "Found", "")
    truth, scores = (part[:, columns] for part in (predictions.truth_matrix, predictions.probabilities))
    said = decided[:, columns] == 1
    kinds = ((~(truth == 1) & said, 1, MISTAKES), ((truth == 1) & ~said, -1, MISTAKES),
             ((truth == 1) & said, 1, RIGHT), (~(truth == 1) & ~said, -1, RIGHT))  # fmt: skip
    groups = []
    for title, (chosen, sign, most) in zip(titles, kinds, strict=True):
        if not title:
            continue
        images, places = np.nonzero(chosen)
        order = np.argsort(-sign * scores[images, places], kind="stable")[:most]
        examples = []
        for image, place in zip(images[order], places[order], strict=True):
            column = int(columns[place])
            name = predictions.labels[column]
            case = (
                f"is {_truth_text(predictions, image)}"
                if binary
                else f"{'has' if truth[image, place] else 'has no'} {name}"
            )
            examples.append(
                Example(
                    int(image), column, float(scores[image, place]), f"{case}; p({name}) = {scores[image, place]:.3f}"
                )
            )
        groups.append(Group(title, most == MISTAKES, len(images), tuple(examples)))
    return groups


def _of_classes(predictions: Predictions, decided: np.ndarray) -> list[Group]:
    """Groups for decisions between several labels, int32 [images]."""
    scores = predictions.probabilities[np.arange(len(predictions)), decided]
    wrong = decided != predictions.truth
    groups = []
    for title, chosen, most in (
        ("Wrong labels", wrong, 2 * MISTAKES),
        ("Right labels", ~wrong, 2 * RIGHT),
    ):
        images = np.flatnonzero(chosen)
        if not wrong[images].any():  # the most confident of each label in turn
            rank = np.zeros(len(images), int)
            for label in np.unique(decided[images]):
                of_label = np.flatnonzero(decided[images] == label)
                rank[of_label[np.argsort(-scores[images[of_label]], kind="stable")]] = np.arange(len(of_label))
            images = images[np.lexsort((decided[images], rank))]
        else:
            images = images[np.argsort(-scores[images], kind="stable")]
        examples = tuple(
            Example(
                int(image), int(decided[image]), float(scores[image]),
                f"is {_truth_text(predictions, image)}; p({predictions.labels[decided[image]]}) = {scores[image]:.3f}",
            )
            for image in images[:most]
        )  # fmt: skip
        groups.append(Group(title, title == "Wrong labels", len(images), examples))
    return groups


def _truth_text(predictions: Predictions, image: int) -> str:
    return predictions.labels[predictions.truth[image]]


def read_pictures(
    groups: Sequence[Group],
    predictions: Predictions,
    data: XrayDataset,
    split: str,
    model: keras.Model,
    config: TrainConfig,
) -> tuple[list[list[Picture]], str]:
    """The pictures of all examples, by group; and why there are no heat maps, or "".

    Reads only the records shown: for the page from the smallest rung that is large enough, and for the model at its
    input size.

    Raises:
      DatasetError: a record is damaged.
    """
    examples = [example for group in groups for example in group.examples]
    if not examples:
        return [[] for _ in groups], ""
    rows = [int(predictions.rows[example.index]) for example in examples]
    largest = open_loader(data.root, data.manifest.digest, data.options(split, image_size=SIDE))
    shown = [_shrink(_to_uint8(largest.reader.image(row))) for row in rows]
    from trainer.report.gradcam import gradcam, overlay  # loads Keras, which the rest of a report does not need

    heats: list[np.ndarray | None] = [None] * len(rows)
    why = _why_no_heat(model)
    if not why:
        channels, labels = model.inputs[0].shape[-1], [example.label for example in examples]
        options = data.options(split, image_size=config.size, fit=config.fit, channels=channels)
        loader = open_loader(data.root, data.manifest.digest, options)
        images = [loader.reader.image(row) for row in rows]
        if config.size is None:
            heat = [
                gradcam(model, native_batch(image), label)[0, : image.shape[0], : image.shape[1]]
                for image, label in zip(images, labels, strict=True)
            ]
        else:
            fed = np.zeros((len(rows), *config.size, channels), loader.reader.dtype)
            for image, out in zip(images, fed, strict=True):
                fit(image, out, options.fit)
            heat = list(gradcam(model, fed, np.array(labels)))
        for number, picture in enumerate(shown):
            placed = place_heat(heat[number], options.fit, picture.shape[0], picture.shape[1])
            heats[number] = overlay(picture[None], placed[None])[0]
    pictures = iter([Picture(image, heat) for image, heat in zip(shown, heats, strict=True)])
    return [[next(pictures) for _ in group.examples] for group in groups], why


def _why_no_heat(model: keras.Model) -> str:
    from trainer.report.gradcam import has_feature_map

    try:
        return "" if has_feature_map(model) else "The model has no feature map, so Grad-CAM cannot say where it looks."
    except InputError as error:
        return f"Grad-CAM cannot take this model apart: {error}"


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
    if how == "squash":
        return _resize(heat, height, width)
    if how == "pad":
        scale = min(fed_height / height, fed_width / width)
        inner_height, inner_width = (
            min(most, max(1, round(side * scale))) for most, side in ((fed_height, height), (fed_width, width))
        )
        top, left = (fed_height - inner_height) // 2, (fed_width - inner_width) // 2
        return _resize(heat[top : top + inner_height, left : left + inner_width], height, width)
    scale = max(fed_height / height, fed_width / width)
    part_height, part_width = min(height, round(fed_height / scale)), min(width, round(fed_width / scale))
    top, left = (height - part_height) // 2, (width - part_width) // 2
    placed = np.zeros((height, width), np.float32)
    placed[top : top + part_height, left : left + part_width] = _resize(heat, part_height, part_width)
    return placed


def _resize(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(np.ascontiguousarray(heat), (width, height), interpolation=cv2.INTER_LINEAR)


def _shrink(pixels: np.ndarray) -> np.ndarray:
    """At most SIDE pixels a side; never enlarged."""
    height, width, channels = pixels.shape
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], channels)


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)


def contact_sheet(
    groups: Sequence[Group], pictures: Sequence[Sequence[Picture]], predictions: Predictions, mistakes: bool
) -> np.ndarray | None:
    """The mistakes, or the right answers, on one sheet, each beside its heat map.

    Args:
      groups: see `choose_examples`.
      pictures: of them, see `read_pictures`.
      predictions: paths and patients.
      mistakes: draw mistakes, or right answers.

    Returns:
      uint8 [height, width, 3]; None if there is nothing to draw.
    """
    chosen = [
        (group.title, example, picture)
        for group, found in zip(groups, pictures, strict=True)
        if group.mistakes == mistakes
        for example, picture in zip(group.examples, found, strict=True)
    ]
    if not chosen:
        return None
    pair = _TILE * (2 if chosen[0][2].heat is not None else 1)
    columns = min(len(chosen), 3 if pair > _TILE else 6)
    rows = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (columns * (pair + 8), rows * (_TILE + _CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 12)
    for number, (title, example, picture) in enumerate(chosen):
        left, top = number % columns * (pair + 8), number // columns * (_TILE + _CAPTION)
        for place, pixels in enumerate(one for one in (picture.image, picture.heat) if one is not None):
            tile = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            scale = min((_TILE - 2) / tile.width, (_TILE - 2) / tile.height)
            tile = tile.resize((max(1, round(tile.width * scale)), max(1, round(tile.height * scale))))
            sheet.paste(tile, (left + place * _TILE + (_TILE - tile.width) // 2, top + (_TILE - tile.height) // 2))
        lines = (title, example.text, str(predictions.paths[example.index]))
        for line, text in enumerate(lines):
            draw.text((left + 4, top + _TILE + 1 + 16 * line), _cut(text, font, pair - 8), "#20252b", font)
    return np.asarray(sheet)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, cut at the front to fit into `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("\u2026" + text) > width:
        text = text[1:]
    return "\u2026" + text

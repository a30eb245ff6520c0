"""TensorBoard event files, written by TensorBoard's own writer and without TensorFlow.

Whoever prepares data, or trains with JAX, needs no TensorFlow. `EventFileWriter` loads it for its file functions
wherever it is installed, unless it is given TensorBoard's stub of them.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import google_crc32c
import numpy as np
from PIL import Image

from cxr.errors import InputError, MissingExtraError

EVENT_FILE_PART = "tfevents"
"""TensorBoard knows an event file by this part of its name."""
THRESHOLDS = 201
"""Points of a precision-recall curve, at evenly spaced thresholds from 0 to 1, as in TensorBoard's own."""
FLUSH_SECONDS = 5
"""Seconds after which events reach the disk without a call of `flush`."""


class EventWriter:
    """Writes scalars, images, texts, histograms and precision-recall curves. Safe to use from several threads.

        with EventWriter("runs/1/tensorboard") as events:
            events.scalars({"loss": 0.31, "roc_auc": 0.97}, step=100)

    Tags are grouped by the part before the first "/". Descriptions are Markdown. The steps of a tag must increase:
    TensorBoard drops points that are followed by an earlier step.

    Args:
      log_dir: folder, created if it does not exist; every writer adds one file.

    Raises:
      MissingExtraError: the package `tensorboard` is not installed.
      OSError: the file cannot be created.
    """

    def __init__(self, log_dir: str | Path):
        self._tensorboard = _load_tensorboard()
        Path(log_dir).mkdir(parents=True, exist_ok=True)
        self.folder = str(log_dir)
        self._writer = self._tensorboard.EventFileWriter(self.folder, flush_secs=FLUSH_SECONDS)

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scalar(self, tag: str, value: float, step: int, description: str = "") -> None:
        """Adds a point to a curve; NaN and infinities are shown as such."""
        self._add("scalar", tag, np.float32(value), step, description)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each of several curves, by tag."""
        for tag, value in values.items():
            self.scalar(tag, value, step)

    def image(self, tag: str, images: np.ndarray, step: int, description: str = "") -> None:
        """Adds an image, or several side by side.

        Args:
          tag: name.
          images: uint8 [height, width, channels] or [images, height, width, channels], with 1, 3 or 4 channels (grey,
            RGB, RGBA).
          step: that they belong to.
          description: Markdown.

        Raises:
          InputError: of another type or shape.
        """
        images = np.asarray(images)
        channels = images.shape[-1] if images.ndim in (3, 4) else 0
        if images.dtype != np.uint8 or channels not in (1, 3, 4) or not images.size:
            raise InputError(
                f"the image {tag!r} must be uint8 [height, width, channels] or [images, height, width, channels] with "
                f"1, 3 or 4 channels; received {images.dtype} {list(images.shape)}"
            )
        batch = images if images.ndim == 4 else images[None]
        height, width = batch.shape[1:3]
        texts = [str(width).encode(), str(height).encode(), *(_to_png(image) for image in batch)]
        self._add("image", tag, np.array(texts, object), step, description)

    def text(self, tag: str, markdown: str, step: int, description: str = "") -> None:
        """Adds a text in Markdown, which may have tables."""
        self._add("text", tag, np.array(markdown.encode(), object), step, description)

    def histogram(self, tag: str, values: Any, step: int, bins: int | np.ndarray = 30, description: str = "") -> None:
        """Adds the distribution of numbers.

        Args:
          tag: name.
          values: numbers of any shape; those that are not finite are left out.
          step: that they belong to.
          bins: number of bins of equal width, or their edges in increasing order.
          description: Markdown.
        """
        numbers = np.asarray(values, np.float64).ravel()
        counts, edges = np.histogram(numbers[np.isfinite(numbers)], bins)
        self._add("histogram", tag, np.stack([edges[:-1], edges[1:], counts], axis=1), step, description)

    def pr_curve(
        self, tag: str, labels: Any, scores: Any, step: int, weights: Any = None, description: str = ""
    ) -> None:
        """Adds a precision-recall curve of one label, at 201 thresholds. (TensorBoard's own function needs TensorFlow.)

        Args:
          tag: name.
          labels: 0 or 1, or booleans, [examples].
          scores: probabilities of the label, in [0, 1], [examples]. Scores equal to a threshold count as positive.
          step: that the curve belongs to.
          weights: of the examples, not negative, [examples]; all 1 if not given.
          description: Markdown.

        Raises:
          InputError: shapes differ, labels are not 0 or 1, or scores are not in [0, 1].
        """
        truth, score = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
        weight = np.ones(truth.shape) if weights is None else np.asarray(weights, np.float64)
        if truth.ndim != 1 or not truth.shape == score.shape == weight.shape:
            raise InputError(
                f"the curve {tag!r} needs labels, scores and weights of one shape [examples]; received "
                f"{list(truth.shape)}, {list(score.shape)} and {list(weight.shape)}"
            )
        if not np.isin(truth, (0, 1)).all():
            raise InputError(f"the curve {tag!r} needs labels of 0 and 1; received {truth.min()} to {truth.max()}")
        if not ((score >= 0) & (score <= 1)).all():
            raise InputError(f"the curve {tag!r} needs scores in [0, 1]; received {score.min()} to {score.max()}")
        self._add("pr_curve", tag, _pr_table(truth, score, weight), step, description, num_thresholds=THRESHOLDS)

    def summary(self, summary: Any, step: int = 0) -> None:
        """Adds a `tensorboard.compat.proto.summary_pb2.Summary`."""
        self._writer.add_event(self._tensorboard.Event(wall_time=time.time(), step=int(step), summary=summary))

    def flush(self) -> None:
        """Writes everything to the disk, where TensorBoard sees it."""
        self._writer.flush()

    def close(self) -> None:
        """Ends the file; may be called again."""
        self._writer.close()

    def _add(self, dashboard: str, tag: str, array: Any, step: int, description: str, **settings: Any) -> None:
        module = self._tensorboard.dashboards[dashboard]
        metadata = module.create_summary_metadata(display_name=tag, description=description, **settings)
        tensor = self._tensorboard.make_tensor_proto(array)
        self.summary(self._tensorboard.Summary(value=[{"tag": tag, "metadata": metadata, "tensor": tensor}]), step)


def is_event_file(name: str) -> bool:
    """Whether TensorBoard would read a file of this name, given without its folder."""
    return EVENT_FILE_PART in name


def _pr_table(truth: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """True and false positives, true and false negatives, precision and recall: float32 [6, THRESHOLDS]."""
    # a division rounds 70 / 200 to the number written 0.35; linspace multiplies, and differs in the last bit
    passed = np.searchsorted(np.arange(THRESHOLDS) / (THRESHOLDS - 1), score, side="right") - 1
    true_positives, false_positives = (
        np.bincount(passed, of_class * weight, THRESHOLDS)[::-1].cumsum()[::-1] for of_class in (truth, 1 - truth)
    )
    false_negatives, true_negatives = true_positives[0] - true_positives, false_positives[0] - false_positives
    predicted, positives = true_positives + false_positives, true_positives[0]
    precision = np.divide(true_positives, predicted, out=np.zeros(THRESHOLDS), where=predicted > 0)
    recall = np.divide(true_positives, positives, out=np.zeros(THRESHOLDS), where=positives > 0)
    table = (true_positives, false_positives, true_negatives, false_negatives, precision, recall)
    return np.stack(table).astype(np.float32)


def _to_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # level 1: X-rays are mostly noise, and level 6 takes three times as long for a few percent
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def _masked_crc32c(data: bytes) -> int:
    """The checksum of the record format."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _load_tensorboard() -> SimpleNamespace:
    """TensorBoard's writer and protocol buffers, and by dashboard the module of its metadata; loads no TensorFlow."""
    try:
        from tensorboard.compat import tensorflow_stub
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.histogram import metadata as histogram
        from tensorboard.plugins.image import metadata as image
        from tensorboard.plugins.pr_curve import metadata as pr_curve
        from tensorboard.plugins.scalar import metadata as scalar
        from tensorboard.plugins.text import metadata as text
        from tensorboard.summary.writer import event_file_writer, record_writer
        from tensorboard.util.tensor_util import make_tensor_proto
    except ImportError as error:
        raise MissingExtraError("writing TensorBoard logs", error.name or "tensorboard", "train") from error
    # The stub for this module alone: the switch `tensorboard.compat.notf` is for a whole process, and would take
    # `tf.summary` away from those who use TensorFlow in it.
    event_file_writer.tf = tensorflow_stub
    record_writer.masked_crc32c = _masked_crc32c  # the same number; TensorBoard's own takes 0.4 s a megabyte
    return SimpleNamespace(
        Event=Event,
        Summary=Summary,
        EventFileWriter=event_file_writer.EventFileWriter,
        make_tensor_proto=make_tensor_proto,
        dashboards={"histogram": histogram, "image": image, "pr_curve": pr_curve, "scalar": scalar, "text": text},
    )

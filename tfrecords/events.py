"""TensorBoard event files, written without TensorFlow: whoever prepares data, or trains with JAX, needs none.

TensorBoard's own `EventFileWriter` loads TensorFlow wherever it is installed. An event file is a file of framed
records, as a shard is; here the `tensorboard` package gives the protocol buffers and the metadata of its dashboards.
"""

from __future__ import annotations

import io
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from cxr.errors import InputError, MissingExtraError
from tfrecords.format.framing import RecordWriter

EVENT_FILE_PART = "tfevents"
"""What TensorBoard knows an event file by: a part of its name."""
THRESHOLDS = 201
"""Points of a precision-recall curve, at evenly spaced thresholds from 0 to 1; what TensorBoard's own have."""
FLUSH_EVERY = 5.0
"""Seconds after which the next event takes all before it to the disk."""


class EventWriter:
    """Writes what TensorBoard shows. May be called by many threads.

        with EventWriter("runs/1/tensorboard") as events:
            events.scalars({"loss": 0.31, "roc_auc": 0.97}, step=100)

    Tags are grouped by what stands before their first "/". Descriptions are Markdown, and are shown behind an "i".
    Of one tag, steps must grow: TensorBoard forgets points that are followed by an earlier step.

    Args:
      log_dir: folder, made where it does not exist; every writer adds a file of its own.

    Raises:
      MissingExtraError: the package `tensorboard` is not installed.
      OSError: the file cannot be made.
    """

    def __init__(self, log_dir: str | Path):
        self._tensorboard = _load_tensorboard()
        self.path = Path(log_dir, f"events.out.{EVENT_FILE_PART}.{int(time.time()):010d}.{uuid.uuid4().hex[:12]}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "xb")  # noqa: SIM115 - closed by close
        self._records = RecordWriter(self._file)
        self._lock = threading.Lock()
        self._flushed = time.monotonic()
        self._write(file_version="brain.Event:2")
        self.flush()

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scalar(self, tag: str, value: float, step: int, description: str = "") -> None:
        """Adds a point to a curve; NaN and infinities are shown as such."""
        self._add("scalar", tag, self._tensor(np.asarray(float(value), np.float32)), step, description)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each of several curves, by tag."""
        for tag, value in values.items():
            self.scalar(tag, value, step)

    def image(self, tag: str, images: np.ndarray, step: int, description: str = "") -> None:
        """Adds a picture, or several side by side.

        Args:
          tag: name.
          images: uint8 [height, width, channels] or [images, height, width, channels], 1, 3 or 4 channels (grey,
            RGB, RGBA).
          step: that they belong to.
          description: Markdown.

        Raises:
          InputError: of another type or shape.
        """
        images = np.asarray(images)
        if (
            images.dtype != np.uint8
            or images.ndim not in (3, 4)
            or images.shape[-1] not in (1, 3, 4)
            or not images.size
        ):
            raise InputError(
                f"the image {tag!r} must be uint8 [height, width, channels] or [images, height, width, channels] with "
                f"1, 3 or 4 channels; received {images.dtype} {list(images.shape)}"
            )
        batch = images if images.ndim == 4 else images[None]
        height, width = batch.shape[1:3]
        texts = [str(width).encode(), str(height).encode(), *(_to_png(image) for image in batch)]
        self._add("image", tag, self._strings(texts), step, description)

    def text(self, tag: str, markdown: str, step: int, description: str = "") -> None:
        """Adds a text in Markdown, which may have tables."""
        self._add("text", tag, self._strings([markdown.encode()], scalar=True), step, description)

    def histogram(self, tag: str, values: Any, step: int, bins: int | np.ndarray = 30, description: str = "") -> None:
        """Adds the distribution of some numbers.

        Args:
          tag: name.
          values: numbers of any shape; those that are not finite are left out.
          step: that they belong to.
          bins: how many of equal width, or their edges in growing order.
          description: Markdown.
        """
        numbers = np.asarray(values, np.float64).ravel()
        counts, edges = np.histogram(numbers[np.isfinite(numbers)], bins)
        buckets = np.stack([edges[:-1], edges[1:], counts], axis=1)
        self._add("histogram", tag, self._tensor(buckets), step, description)

    def pr_curve(
        self, tag: str, labels: Any, scores: Any, step: int, weights: Any = None, description: str = ""
    ) -> None:
        """Adds a precision-recall curve of one label, at 201 thresholds.

        Args:
          tag: name.
          labels: 0 or 1, or booleans, [examples].
          scores: probabilities of the label, in [0, 1], [examples]. What is at least a threshold counts as positive.
          step: that the curve belongs to.
          weights: of the examples, not negative, [examples]; all 1 where not given.
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
        # a division rounds 70 / 200 to what is written 0.35; linspace multiplies, and is off by a bit
        passed = np.searchsorted(np.arange(THRESHOLDS) / (THRESHOLDS - 1), score, side="right") - 1
        true_positives, false_positives = (
            np.bincount(passed, of_class * weight, THRESHOLDS)[::-1].cumsum()[::-1] for of_class in (truth, 1 - truth)
        )
        false_negatives, true_negatives = true_positives[0] - true_positives, false_positives[0] - false_positives
        predicted, positives = true_positives + false_positives, true_positives[0]
        precision = np.divide(true_positives, predicted, out=np.zeros(THRESHOLDS), where=predicted > 0)
        recall = np.divide(true_positives, positives, out=np.zeros(THRESHOLDS), where=positives > 0)
        table = (true_positives, false_positives, true_negatives, false_negatives, precision, recall)
        tensor = self._tensor(np.stack(table).astype(np.float32))
        self._add("pr_curve", tag, tensor, step, description, num_thresholds=THRESHOLDS)

    def summary(self, summary: Any, step: int = 0) -> None:
        """Adds what is a `tensorboard.compat.proto.summary_pb2.Summary` already."""
        self._write(step=int(step), summary=summary)

    def flush(self) -> None:
        """Takes everything to the disk, where TensorBoard sees it."""
        with self._lock:
            if not self._file.closed:
                self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Ends the file; may be called again."""
        with self._lock:
            self._file.close()

    def _add(self, dashboard: str, tag: str, tensor: Any, step: int, description: str, **settings: Any) -> None:
        module = self._tensorboard.dashboards[dashboard]
        metadata = module.create_summary_metadata(display_name=tag, description=description, **settings)
        summary = self._tensorboard.Summary()
        summary.value.add(tag=tag, metadata=metadata, tensor=tensor)
        self._write(step=int(step), summary=summary)

    def _write(self, **fields: Any) -> None:
        data = self._tensorboard.Event(wall_time=time.time(), **fields).SerializeToString()
        with self._lock:
            self._records.write(data)
            late = time.monotonic() - self._flushed > FLUSH_EVERY
        if late:
            self.flush()

    def _tensor(self, array: np.ndarray) -> Any:
        kind = {np.dtype(np.float32): "DT_FLOAT", np.dtype(np.float64): "DT_DOUBLE"}[array.dtype]
        content = array.astype(array.dtype.newbyteorder("<")).tobytes()
        return self._tensorboard.TensorProto(dtype=kind, tensor_shape=self._shape(array.shape), tensor_content=content)

    def _strings(self, texts: list[bytes], scalar: bool = False) -> Any:
        shape = self._shape(() if scalar else (len(texts),))
        return self._tensorboard.TensorProto(dtype="DT_STRING", tensor_shape=shape, string_val=texts)

    def _shape(self, shape: tuple[int, ...]) -> Any:
        return self._tensorboard.TensorShapeProto(dim=[{"size": size} for size in shape])


def is_event_file(name: str) -> bool:
    """Whether TensorBoard would read a file of this name, given without its folder."""
    return EVENT_FILE_PART in name


def _to_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # level 1: X-rays are mostly noise, and level 6 takes three times as long for a few percent
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def _load_tensorboard() -> SimpleNamespace:
    """The protocol buffers, and by dashboard the module that makes its metadata; loads no TensorFlow."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.plugins.histogram import metadata as histogram
        from tensorboard.plugins.image import metadata as image
        from tensorboard.plugins.pr_curve import metadata as pr_curve
        from tensorboard.plugins.scalar import metadata as scalar
        from tensorboard.plugins.text import metadata as text
    except ImportError as error:
        raise MissingExtraError("writing TensorBoard logs", error.name or "tensorboard", "train") from error
    return SimpleNamespace(
        Event=Event,
        Summary=Summary,
        TensorProto=TensorProto,
        TensorShapeProto=TensorShapeProto,
        dashboards={"histogram": histogram, "image": image, "pr_curve": pr_curve, "scalar": scalar, "text": text},
    )

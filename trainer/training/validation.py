"""What a model says of a whole split, and exact metrics of it after each epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from cxr.errors import CxrError, InputError
from tfrecords.dataset import XrayDataset, open_dataset
from tfrecords.streaming.stream import plain_errors
from trainer.evaluation.metrics import quick_metrics
from trainer.evaluation.predictions import Predictions
from trainer.facts import VALIDATION
from trainer.run import Run
from trainer.train_config import TrainConfig
from trainer.training.inputs import change_native, native_batch, pixels_of
from trainer.training.keeper import Keeper, averaged_weights

PREDICT_BATCH = 64
"""Images a batch of prediction, whatever training's batch is; it has no gradients to hold."""

ChangeImages = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Images [n, height, width, channels] and their rows in the split, to images."""


class Validation(keras.callbacks.Callback):
    """Adds the metrics of the validation split to each epoch's logs, as `val_loss`, `val_auc` and the like.

    They are computed from all predictions together: Keras's own AUC is an approximation by 200 thresholds. Where the
    run averages its weights, the averaged ones are validated.
    """

    def __init__(self, data: XrayDataset, keeper: Keeper, **stream: Any):
        super().__init__()
        self.data, self.keeper, self.stream = data, keeper, stream

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        run = self.keeper.run
        self.keeper.close_steps()
        try:
            with averaged_weights(self.model, run.config.ema):
                predictions = predict_split(
                    self.model, self.data, VALIDATION, run.config, between=self._look, **self.stream
                )
        except _StopAsked:
            self.keeper.leave()
        logs.update({f"val_{name}": value for name, value in quick_metrics(predictions, run.facts.positive).items()})

    def _look(self) -> None:
        if self.keeper.stop:
            raise _StopAsked


class _StopAsked(Exception):
    """A stop was requested while a split was predicted. Saving waits until the averaged weights are gone."""


def predict_split(
    model: keras.Model, data: XrayDataset, split: str, config: TrainConfig, change: ChangeImages | None = None,
    between: Callable[[], None] | None = None, **stream: Any,
) -> Predictions:  # fmt: skip
    """Probabilities for every image of a split, in stored order.

    Args:
      config: says how images are fitted.
      change: done to the images first, see `trainer.evaluation.shifts`.
      between: called after each batch.
      stream: more options of the stream.

    Raises:
      InputError: no such split.
      DatasetError: a shard is damaged.
    """
    channels = model.inputs[0].shape[-1]
    size = min(PREDICT_BATCH, config.batch_size) if config.native else PREDICT_BATCH
    batches = data.stream(
        split, **{**pixels_of(config), "batch_size": size, "channels": channels, "metadata": True, **stream}
    )
    parts: list[tuple[np.ndarray, ...]] = []
    with plain_errors():
        for images, truth, extra in batches.as_numpy_iterator():
            if change is not None:
                images = (partial(change_native, change=change) if config.native else change)(images, extra["row"])
            strings = (extra[name] for name in ("patient", "path", "cause", *data.manifest.groups))
            parts.append((predict_images(model, images, size), truth, extra["row"], *strings))
            if between is not None:
                between()
    found = list(map(np.concatenate, zip(*parts, strict=True)))
    order = np.argsort(found[2], kind="stable")  # at native size batches come bucket by bucket
    probabilities, truth, rows, patients, paths, causes, *groups = (part[order] for part in found)
    subgroups = dict(zip(data.manifest.groups, groups, strict=True))
    return Predictions(data.labels, data.multi_label, probabilities, truth, rows, patients, paths, causes, subgroups)


def predict_validation(run: Run, model: keras.Model, data: XrayDataset | None = None) -> Predictions:
    """Predictions of the validation split that a run was trained with, on which its operating point is chosen.

    `data` is a data set at hand, which is taken if it is the run's own; it may have moved since. Raises InputError
    where the run's data set is not there any more, or has changed.
    """
    try:
        if data is None or data.manifest.digest != run.facts.digest:
            data = open_dataset(run.facts.path)
        if data.manifest.digest != run.facts.digest:
            raise InputError(f"{data.root} has changed since")
    except CxrError as error:
        raise InputError(
            f"an operating point is chosen on the validation split that the run was trained with: {error}. "
            "Give --operating-point threshold=T to do without"
        ) from error
    return predict_split(model, data, VALIDATION, run.config)


def predict_images(model: keras.Model, images: Any, size: int = PREDICT_BATCH) -> np.ndarray:
    """Probabilities float32 [n, labels] of images uint8 or uint16 [n, height, width, channels].

    Smaller batches are filled up to `size`, so that one shape is compiled and an image's probabilities do not depend
    on how many others come with it. At native size images are `{"image": ..., "mask": ...}`.
    """
    count, found = len(keras.tree.flatten(images)[0]), []
    for start in range(0, count, size):
        batch = keras.tree.map_structure(partial(_filled, start=start, size=size), images)
        found.append(ops.convert_to_numpy(model.predict_on_batch(batch))[: count - start])
    return np.concatenate(found)


def predict_arrays(model: keras.Model, images: Sequence[np.ndarray]) -> np.ndarray:
    """Probabilities float32 [n, labels] of single images [height, width, channels], as the model takes them.

    At native size each is a batch by itself, whatever the others are.
    """
    if isinstance(model.input, dict):
        return np.concatenate([predict_images(model, native_batch(pixels), 1) for pixels in images])
    return predict_images(model, np.stack(images))


def _filled(part: np.ndarray, start: int, size: int) -> np.ndarray:
    batch = part[start : start + size]
    missing = size - len(batch)
    return np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)]) if missing else batch

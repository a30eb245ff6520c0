"""The streams that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cxr.errors import InputError
from tfrecords.dataset import XrayDataset
from trainer.facts import TRAIN, DataFacts
from trainer.train_config import TrainConfig

NATIVE_MULTIPLE = 64
"""What the sides of a batch of files are rounded up to, so that few shapes are compiled."""


def training_steps(data: XrayDataset, config: TrainConfig, facts: DataFacts, devices: int = 1, **others: Any) -> int:
    """Training steps per epoch, at least 1.

    Raises InputError where an option of the stream is not possible, or the split is smaller than a batch.
    """
    if data.images(TRAIN) < config.batch_size:
        raise InputError(
            f"split '{TRAIN}' has {data.images(TRAIN)} images, fewer than a batch; lower batch_size={config.batch_size}"
        )
    return data.steps_per_epoch(TRAIN, **stream_options(config, facts.multi_label, devices, **others))


def stream_options(config: TrainConfig, multi_label: bool, devices: int = 1, **others: Any) -> dict[str, Any]:
    """Options of the training stream; raises InputError where the batch is not a multiple of the number of devices."""
    if config.batch_size % devices:
        raise InputError(
            f"batch_size={config.batch_size} cannot be divided evenly among {devices} GPUs; use a multiple of {devices}"
        )
    return {
        **pixels_of(config),
        "batch_size": config.batch_size,
        "training": True,
        "seed": config.seed,
        # One shape, compiled once. At native size it would leave out images of each bucket.
        "drop_remainder": not config.native or devices > 1,
        "balanced": config.class_weights == "balanced",
        "sample_weights": config.class_weights == "auto" and not multi_label,
        **others,
    }


def pixels_of(config: TrainConfig) -> dict[str, Any]:
    """Options of any stream that a model of this configuration reads."""
    return {"image_size": None} if config.native else {"image_size": config.image_size, "fit": config.fit}


def native_batch(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """One image [height, width, channels] as a batch of a model at native size, padded at the bottom and right."""
    height, width, channels = pixels.shape
    canvas = (1, height + -height % NATIVE_MULTIPLE, width + -width % NATIVE_MULTIPLE)
    image, mask = np.zeros((*canvas, channels), pixels.dtype), np.zeros((*canvas, 1), bool)
    image[0, :height, :width], mask[0, :height, :width] = pixels, True
    return {"image": image, "mask": mask}


def change_native(
    batch: dict[str, np.ndarray], rows: np.ndarray, change: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> dict[str, np.ndarray]:
    """The batch of `image` and `mask`, which is left as it is, with each image changed by itself, without its padding.

    `change` takes images [n, height, width, channels] and their rows, int64 [n], to images.
    """
    images = batch["image"].copy()
    for number, mask in enumerate(batch["mask"]):
        height, width = int(mask[:, 0].sum()), int(mask[0].sum())
        place = np.s_[number : number + 1, :height, :width]
        images[place] = change(images[place], rows[number : number + 1])
    return {**batch, "image": images}

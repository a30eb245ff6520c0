"""The streams that a configuration asks for."""

from __future__ import annotations

from typing import Any

from cxr.errors import InputError
from tfrecords.dataset import XrayDataset
from trainer.facts import TRAIN, DataFacts
from trainer.train_config import TrainConfig


def training_steps(data: XrayDataset, config: TrainConfig, facts: DataFacts, devices: int = 1, **others: Any) -> int:
    """Training steps an epoch, at least 1; finds out by the way whether the options of the stream can be had.

    Raises:
      InputError: they cannot, or the split is smaller than a batch.
    """
    if data.images(TRAIN) < config.batch_size:
        raise InputError(
            f"split '{TRAIN}' has {data.images(TRAIN)} images, fewer than a batch; lower batch_size={config.batch_size}"
        )
    return data.steps_per_epoch(TRAIN, **stream_options(config, facts.multi_label, devices, **others))


def stream_options(config: TrainConfig, multi_label: bool, devices: int = 1, **others: Any) -> dict[str, Any]:
    """Options of the training stream of a configuration.

    Raises:
      InputError: the batch size is not a multiple of the number of devices.
    """
    if config.batch_size % devices:
        raise InputError(
            f"batch_size={config.batch_size} cannot be dealt out to {devices} GPUs evenly; take a multiple of {devices}"
        )
    return {
        **pixels_of(config),
        "batch_size": config.batch_size,
        "training": True,
        "seed": config.seed,
        "drop_remainder": True,  # one shape, compiled once
        "balanced": config.class_weights == "balanced",
        "sample_weights": config.class_weights == "auto" and not multi_label,
        **others,
    }


def pixels_of(config: TrainConfig) -> dict[str, Any]:
    """Options of any stream that a model of this configuration reads."""
    return {"image_size": config.image_size, "fit": config.fit}

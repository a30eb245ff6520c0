"""Whether this machine's memory suffices for training at native size, asked before the system ends the process."""

from __future__ import annotations

import math
from typing import Any

import keras

from cxr.console import format_bytes
from cxr.errors import TrainingError
from cxr.machine import available_memory
from tfrecords.dataset import XrayDataset
from tfrecords.streaming.loader import open_loader
from trainer.facts import TRAIN, DataFacts
from trainer.models import build_backbone
from trainer.models.heads import find_backbone
from trainer.train_config import TrainConfig
from trainer.training import precision

GRADIENT_SHARE = 1.5
"""Memory of a training step over that of the features of all layers; 1.4 was measured on a CPU."""


def check_memory(config: TrainConfig, facts: DataFacts, data: XrayDataset, stream: dict[str, Any]) -> None:
    """Raises TrainingError where a batch of the largest images needs more memory than a CPU has available.

    Nothing is checked for images of one size, nor on GPUs, whose own error says that memory does not suffice.
    """
    if not config.native or precision.accelerators():
        return
    buckets = open_loader(data.root, data.manifest.digest, data.options(TRAIN, **stream)).buckets
    height, width = buckets[-1].tolist()  # type: ignore[index]
    with precision.policy(config.mixed_precision):
        images = keras.Input((height, width, facts.channels))
        features = build_backbone(config.model, images, config.model_options)
    outputs = [operation.output for operation in find_backbone(keras.Model(images, features)).operations]
    kept = sum(math.prod(one.shape[1:]) * (2 if "16" in one.dtype else 4) for one in outputs)  # bytes, for gradients
    each = int(GRADIENT_SHARE * kept)
    available = available_memory()
    if each * config.batch_size > available:
        raise TrainingError(
            f"batches of {config.batch_size} images of up to {height} x {width} pixels take about "
            f"{format_bytes(each * config.batch_size)} with {config.model}, and {format_bytes(available)} of memory "
            f"are available: lower --batch-size to {max(1, available // each)}, take fewer filters "
            "(--model-options filters=8,16,32 pool=stride), or an --image-size in pixels"
        )

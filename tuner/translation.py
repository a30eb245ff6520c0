"""From hyperparameters to the trainer's configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfrecords.errors import InputError
from trainer.config import TrainConfig
from trainer.models import MODELS
from trainer.models.options import ApplicationOptions, ConvOptions, MlpOptions, ResNetOptions, XceptionOptions
from trainer.presets import PRESETS

MOST_CHANNELS = 256
"""Of a block, however fast they grow."""

TRAINER_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(TrainConfig)
    if field.name not in ("model_options", "augment_options", "epochs", "monitor", "seed")
)
"""Fields of `TrainConfig` that may be hyperparameters by their own name."""

MEANINGS = {
    "preset": "a recipe of `cxr train`, which the others change",
    "model": "architecture",
    "image_size": "side in pixels",
    "flat_image_size": "side in pixels, of models with a weight for each pixel",
    "augment": "how much training images are changed",
    "equalize": "equalise each image's histogram",
    "normalize": "whose mean and deviation to divide out",
    "batch_size": "images a step",
    "optimizer": "how weights are changed",
    "learning_rate": "the highest",
    "sgd_learning_rate": "the highest, of SGD",
    "weight_decay": "of AdamW",
    "schedule": "how the learning rate falls",
    "class_weights": "what makes up for unequal classes",
    "label_smoothing": "share of the label given to all labels alike",
    "ema": "momentum of an average of the weights",
    "mixed_precision": "number format of the layers",
    "activation": "of each layer but the last",
    "dropout": "share of features dropped before the labels",
    "dense": "width of a dense layer before the labels",
    "layers": "dense layers",
    "units": "width of each",
    "blocks": "blocks of convolutions, each at half the resolution of the one before",
    "width": "channels of the first block",
    "growth": "channels of a block over those of the one before, at most 256",
    "convolutions": "convolutions a block",
    "kernel": "side of the convolutions, pixels",
    "block": "kind of the blocks",
    "plain_blocks": "so many of the first blocks are plain all the same",
    "pool": "how a block halves the resolution",
    "normalization": "after each convolution",
    "block_dropout": "share of values dropped after each block",
    "final": "from the last block to features",
    "weights": "weights to begin with",
    "freeze_epochs": "epochs in which pretrained layers stay as they are",
    "fine_tune_learning_rate": "the highest rate after those",
    "fine_tune_layers": "pretrained layers that train after those, 0 for all",
    "head": "width of a dense layer on a pretrained architecture",
    "head_activation": "of that layer",
}
"""Hyperparameters by name, and what they are."""


def translate(values: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """Fields of `TrainConfig` that hyperparameters mean.

    Args:
      values: by name. What a model has no use for is left alone.
      epochs: at most. A recipe may have fewer of its own. Warm-up, and epochs with frozen layers, take at most half of
        them, so that short trials of a search fine-tune as well.

    Raises:
      InputError: an unknown recipe or model.
    """
    fields: dict[str, Any] = {}
    if "preset" in values:
        if values["preset"] not in PRESETS:
            raise InputError(f"preset={values['preset']!r}: expected one of {', '.join(PRESETS)}")
        fields = dict(PRESETS[values["preset"]].config)
    fields.update({name: _exact(value) for name, value in values.items() if name in TRAINER_FIELDS})
    if "flat_image_size" in values:
        fields["image_size"] = _exact(values["flat_image_size"])
    if "sgd_learning_rate" in values:
        fields["learning_rate"] = float(values["sgd_learning_rate"])
    model = fields.get("model", TrainConfig.model)
    options = {**fields.get("model_options", {}), **_model_options(model, values)}
    if options:
        fields["model_options"] = options
    fields["epochs"] = min(epochs, int(fields.get("epochs", epochs)))
    fields["warmup_epochs"] = min(float(fields.get("warmup_epochs", TrainConfig.warmup_epochs)), fields["epochs"] / 2)
    if fields.get("freeze_epochs"):
        whole = fields["freeze_epochs"] >= PRESETS[values["preset"]].config["epochs"] if "preset" in values else False
        fields["freeze_epochs"] = fields["epochs"] if whole else min(fields["freeze_epochs"], fields["epochs"] // 2)
    if fields.get("weights", "none") == "none":
        fields.pop("freeze_epochs", None)
    return fields


def _model_options(model: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an architecture."""
    if model not in MODELS:
        return {}  # the configuration says so, with the names that there are
    kind = type(MODELS[model].options)
    own = {field.name for field in dataclasses.fields(kind)}
    found = {
        name: _exact(values[name]) for name in values if name in own and name not in ("dense", "block", "convolutions")
    }
    if kind is MlpOptions:
        if "layers" in values or "units" in values:
            given = MODELS[model].options.dense
            found["dense"] = [int(values.get("units", given[0]))] * int(values.get("layers", len(given)))
        return found
    if "dense" in values:
        found["dense"] = _widths(values["dense"])
    if kind is ConvOptions:
        found.update(_blocks(model, values))
    elif kind is XceptionOptions:
        if "width" in values or "blocks" in values:
            width, blocks = int(values.get("width", 128)), int(values.get("blocks", 3))
            found["filters"] = [width * (number + 1) for number in range(blocks)]
        if "convolutions" in values:
            found["convolutions"] = int(values["convolutions"])
    elif kind is ResNetOptions:
        if "width" in values:
            found["filters"] = int(values["width"])
        if "blocks" in values:
            found["depths"] = [int(values["blocks"])] * 4
    elif kind is ApplicationOptions:
        if "head" in values:
            found["dense"] = _widths(values["head"])
        if "head_activation" in values:
            found["activation"] = values["head_activation"]
    return found


def _blocks(model: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Blocks of a convolutional network."""
    found: dict[str, Any] = {}
    options = MODELS[model].options
    if not isinstance(options, ConvOptions):
        return found
    count = int(values.get("blocks", len(options.filters)))
    if {"blocks", "width", "growth"} & set(values):
        width, growth = int(values.get("width", options.filters[0])), float(values.get("growth", 2.0))
        found["filters"] = [
            min(MOST_CHANNELS, max(8, 8 * round(width * growth**number / 8))) for number in range(count)
        ]
    if "convolutions" in values:
        found["convolutions"] = [int(values["convolutions"])]
    if "block" in values:
        plain_blocks = min(int(values.get("plain_blocks", 0)), count - 1)
        found["block"] = ["plain"] * plain_blocks + [values["block"]]
    return found


def _widths(value: Any) -> list[int]:
    """Dense layers: `none`, or a width."""
    return [] if value == "none" else [int(value)]


def _exact(value: Any) -> Any:
    """A value of Python's own; KerasTuner gives whole numbers as floats where it was told of some."""
    if hasattr(value, "item"):
        value = value.item()
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) >= 1 else value


def plain(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)

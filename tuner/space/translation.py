"""From hyperparameters to the trainer's configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cxr.errors import InputError
from trainer.models import MODELS
from trainer.models.model_options import ApplicationOptions, ConvOptions, MlpOptions, ResNetOptions, XceptionOptions
from trainer.presets import PRESETS
from trainer.train_config import TrainConfig

MOST_CHANNELS = 256
"""Of a block, however fast they grow."""

TRAINER_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(TrainConfig)
    if field.name not in ("model_options", "augment_options", "epochs", "monitor", "seed")
)
"""Fields of `TrainConfig` that may be hyperparameters by their own name."""

VARIANTS = {"flat_image_size": "image_size", "sgd_learning_rate": "learning_rate"}
"""What goes before a field of the trainer, for some models or optimizers, by name."""

MEANINGS = {
    "preset": "a recipe of `cxr train`, which the others change",
    "model": "architecture",
    "image_size": "side in pixels; native is each image's own size",
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
      InputError: an unknown recipe, a value that cannot be, or a model that cannot have its recipe's weights.
    """
    fields = _asked(values)
    for variant, name in VARIANTS.items():
        if variant in values and _uses(variant, fields, values):
            fields[name] = _exact(values[variant])
    model = fields.get("model", TrainConfig.model)
    if model in MODELS and not MODELS[model].pretrained and fields.get("weights", "none") != "none":
        if "weights" not in values:
            raise InputError(f"preset={values['preset']} has pretrained weights, and model={model} takes none")
        del fields["weights"]
    options = {**fields.get("model_options", {}), **_model_options(model, values)}
    if options:
        fields["model_options"] = options
    fields["epochs"] = min(epochs, int(fields.get("epochs", epochs)))
    warmup = fields.get("warmup_epochs", TrainConfig.warmup_epochs)
    fields["warmup_epochs"] = min(warmup, fields["epochs"] / 2) if _is_number(warmup) else warmup
    if _is_number(fields.get("freeze_epochs")):
        whole = fields["freeze_epochs"] >= PRESETS[values["preset"]].config["epochs"] if "preset" in values else False
        fields["freeze_epochs"] = fields["epochs"] if whole else min(fields["freeze_epochs"], fields["epochs"] // 2)
        if fields.get("weights", "none") == "none":
            del fields["freeze_epochs"]
    return fields


def used(values: Mapping[str, Any]) -> set[str]:
    """Those of the hyperparameters that a run with these values is any different for.

    Raises:
      InputError: an unknown recipe.
    """
    fields = _asked(values)
    return {name for name in values if _uses(name, fields, values)}


def _asked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `TrainConfig` that are given by their own name, on top of the recipe's."""
    fields: dict[str, Any] = {}
    if "preset" in values:
        if values["preset"] not in PRESETS:
            raise InputError(f"preset={values['preset']!r}: expected one of {', '.join(PRESETS)}")
        fields = dict(PRESETS[values["preset"]].config)
    fields.update({name: _exact(value) for name, value in values.items() if name in TRAINER_FIELDS})
    return fields


def _uses(name: str, fields: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    model = fields.get("model", TrainConfig.model)
    if model not in MODELS:
        return True  # the configuration says what is wrong
    options = MODELS[model].options
    pretrained = MODELS[model].pretrained and fields.get("weights", "none") != "none"
    flat = isinstance(options, MlpOptions) or getattr(options, "final", "") == "flatten"
    sgd = fields.get("optimizer", TrainConfig.optimizer) == "sgd"
    needs = {
        "flat_image_size": flat,
        "image_size": not (flat and "flat_image_size" in values),
        "sgd_learning_rate": sgd,
        "learning_rate": not (sgd and "sgd_learning_rate" in values),
        "weight_decay": fields.get("optimizer", TrainConfig.optimizer) == "adamw",
        "warmup_epochs": fields.get("schedule", TrainConfig.schedule) != "plateau",
        "weights": MODELS[model].pretrained,
        "normalize": not pretrained,
        "freeze_epochs": pretrained,
        "fine_tune_learning_rate": pretrained and bool(fields.get("freeze_epochs")),
        "fine_tune_layers": pretrained and bool(fields.get("freeze_epochs")),
        "activation": not isinstance(options, ApplicationOptions) or bool(options.dense),
        "head_activation": isinstance(options, ApplicationOptions)
        and values.get("head", "none" if not options.dense else "") != "none",
        "plain_blocks": isinstance(options, ConvOptions) and values.get("block", "plain") != "plain",
    }
    if name in needs:
        return needs[name]
    return name in TRAINER_FIELDS or name == "preset" or name in _TAKES[type(options)]


_CONVOLVES = {"dense", "dropout", "activation", "normalization", "final", "width", "blocks"}
_TAKES = {
    MlpOptions: {"dropout", "layers", "units"},
    ConvOptions: _CONVOLVES | {"growth", "kernel", "convolutions", "block", "pool", "block_dropout"},
    XceptionOptions: _CONVOLVES | {"kernel", "convolutions"},
    ResNetOptions: _CONVOLVES,
    ApplicationOptions: {"dropout", "final", "head", "dense"},
}
"""Hyperparameters that a family of models has a use for, without those that `_uses` looks at more closely."""


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
            found["dense"] = [_whole("units", values, given[0])] * _whole("layers", values, len(given))
        return found
    if "dense" in values:
        found["dense"] = _widths("dense", values)
    if kind is ConvOptions:
        found.update(_blocks(model, values))
    elif kind is XceptionOptions:
        if "width" in values or "blocks" in values:
            width, blocks = _whole("width", values, 128), _whole("blocks", values, 3)
            found["filters"] = [width * (number + 1) for number in range(blocks)]
        if "convolutions" in values:
            found["convolutions"] = _whole("convolutions", values)
    elif kind is ResNetOptions:
        if "width" in values:
            found["filters"] = _whole("width", values)
        if "blocks" in values:
            found["depths"] = [_whole("blocks", values)] * 4
    elif kind is ApplicationOptions:
        if "head" in values:
            found["dense"] = _widths("head", values)
        if "head_activation" in values:
            found["activation"] = values["head_activation"]
    return found


def _blocks(model: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Blocks of a convolutional network."""
    found: dict[str, Any] = {}
    options = MODELS[model].options
    if not isinstance(options, ConvOptions):
        return found
    count = _whole("blocks", values, len(options.filters))
    if {"blocks", "width", "growth"} & set(values):
        width, growth = _whole("width", values, options.filters[0]), _exact(values.get("growth", 2.0))
        if not _is_number(growth) or not 0 < growth <= 8:
            raise InputError(f"growth={growth!r}: expected a number above 0 and at most 8")
        most = max(MOST_CHANNELS, width)
        found["filters"] = [min(most, max(8, 8 * round(width * growth**number / 8))) for number in range(count)]
    if "convolutions" in values:
        found["convolutions"] = [_whole("convolutions", values)]
    if "block" in values:
        plain_blocks = min(_whole("plain_blocks", values, 0), count - 1)
        found["block"] = ["plain"] * plain_blocks + [values["block"]]
    return found


def _widths(name: str, values: Mapping[str, Any]) -> list[int]:
    """Dense layers: `none`, or a width."""
    value = values[name]
    if isinstance(value, str) and value.isdecimal():
        return [int(value)]
    return [] if value == "none" else [_whole(name, values)]


def _whole(name: str, values: Mapping[str, Any], default: int = 0) -> int:
    value = _exact(values.get(name, default))
    if value == 0 and _is_number(value):
        return 0
    if type(value) is not int or value < 0:
        raise InputError(f"{name}={value!r}: expected a whole number, at least 0")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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

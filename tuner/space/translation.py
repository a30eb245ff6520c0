"""From hyperparameters to the trainer's configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cxr.errors import InputError
from trainer.models import MODELS
from trainer.models.hyperparameters import FAMILIES, options_of
from trainer.presets import PRESETS
from trainer.train_config import TrainConfig

TRAINER_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(TrainConfig)
    if field.name not in ("model_options", "augment_options", "epochs", "monitor", "seed")
)
"""Fields of `TrainConfig` that can be hyperparameters by their own name."""

MEANINGS = {
    "preset": "a recipe of `cxr train`, which the others change",
    "model": "architecture",
    "image_size": "side in pixels; native is each image's own size",
    "augment": "how much training images are changed",
    "equalize": "equalise each image's histogram",
    "batch_size": "images a step",
    "optimizer": "how weights are changed",
    "learning_rate": "highest learning rate",
    "weight_decay": "of AdamW",
    "schedule": "how the learning rate falls",
    "class_weights": "what makes up for unequal classes",
    "label_smoothing": "share of the label given to all labels alike",
    "ema": "momentum of an average of the weights",
    "mixed_precision": "number format of the layers",
}
"""What each hyperparameter is, by name; those of the models come from their families."""
for _family in FAMILIES.values():
    for _own in _family.hyperparameters:
        MEANINGS.setdefault(_own.name, _own.about)


def translate(values: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """The fields of `TrainConfig` that hyperparameters stand for.

    Args:
      values: by name. What a model does not use is ignored.
      epochs: at most. A recipe may have fewer of its own. Warm-up, and epochs with frozen layers, take at most half of
        them, so that short trials of a search fine-tune as well.

    Raises:
      InputError: an unknown recipe, a value that cannot be, or a model that cannot have its recipe's weights.
    """
    values = {name: _exact(value) for name, value in values.items()}
    fields = _asked(values)
    model = fields.get("model", TrainConfig.model)
    if model in MODELS and not MODELS[model].pretrained and fields.get("weights", "none") != "none":
        if "weights" not in values:
            raise InputError(f"preset={values['preset']} has pretrained weights, and model={model} takes none")
        del fields["weights"]
    if model in MODELS:  # of another, the configuration says what is wrong
        options = {**fields.get("model_options", {}), **options_of(MODELS[model].options, values)}
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
    """Those of the hyperparameters that make a difference to a run with these values.

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
    needs = {
        "weight_decay": fields.get("optimizer", TrainConfig.optimizer) == "adamw",
        "warmup_epochs": fields.get("schedule", TrainConfig.schedule) != "plateau",
        "weights": MODELS[model].pretrained,
        "normalize": not pretrained,
        "freeze_epochs": pretrained,
        "fine_tune_learning_rate": pretrained and bool(fields.get("freeze_epochs")),
        "fine_tune_layers": pretrained and bool(fields.get("freeze_epochs")),
    }
    if name in needs:
        return needs[name]
    own = FAMILIES[type(options)].find(name)
    if own is None:
        return name in TRAINER_FIELDS or name == "preset"
    # what is not given leaves it without effect, but for dense layers that the model has anyway
    return all(
        values[other] != off if other in values else other == "dense" and bool(options.dense)
        for other, off in own.unless
    )


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

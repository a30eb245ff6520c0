"""What a search may vary in each family of models, and the options of the family that its values stand for.

Most hyperparameters are options, or fields of `TrainConfig`, by their own name. Others stand for several values of an
option: `width`, `growth` and `blocks` for the channels of each block, `layers` and `units` for dense layers.
Nothing here loads Keras.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cxr.errors import InputError
from trainer.models import MODELS
from trainer.models.model_options import (
    ApplicationOptions,
    ConvOptions,
    MlpOptions,
    ModelOptions,
    ResNetOptions,
    XceptionOptions,
)

MOST_CHANNELS = 256
"""Channels of a block at most, however fast they grow."""


@dataclasses.dataclass(frozen=True)
class Hyperparameter:
    """A hyperparameter of a family of models.

    Attributes:
      name: of an option, of a field of `TrainConfig`, or of what `Family.options` turns into options.
      about: a line for people.
      values: to choose from, or else a range:
      low, high, step: of the range, both ends included. With neither values nor a range, the named spaces do not vary
        it, but it can be fixed.
      log: the range is logarithmic.
      unless: (other hyperparameter of the family, value) pairs that leave this one without effect.
    """

    name: str
    about: str
    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    unless: tuple[tuple[str, Any], ...] = ()

    @property
    def varied(self) -> bool:
        """Whether the named spaces vary it."""
        return bool(self.values) or self.low is not None


@dataclasses.dataclass(frozen=True)
class Family:
    """What models of one kind of options have in common.

    Attributes:
      hyperparameters: in the order in which a space lists them.
      combined: options that hyperparameters of other names stand for; called with a model's own options and the values.
    """

    hyperparameters: tuple[Hyperparameter, ...]
    combined: Callable[[Any, Mapping[str, Any]], dict[str, Any]] = lambda options, values: {}

    def find(self, name: str) -> Hyperparameter | None:
        """The hyperparameter of that name; None where the family has none."""
        return next((each for each in self.hyperparameters if each.name == name), None)


def options_of(options: ModelOptions, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a model that hyperparameters stand for, without those that no value says anything about.

    Values, by name, that the family of the model's own options does not have are ignored. Raises InputError for a value
    that cannot be.
    """
    family = FAMILIES[type(options)]
    own = {field.name for field in dataclasses.fields(options)}
    found = {name: value for name, value in values.items() if name in own and family.find(name)}
    if "dense" in found:
        found["dense"] = _dense(found["dense"])
    return {**found, **family.combined(options, values)}


def _mlp(options: MlpOptions, values: Mapping[str, Any]) -> dict[str, Any]:
    if not {"layers", "units"} & set(values):
        return {}
    given = options.dense
    return {"dense": [whole("units", values, given[0])] * whole("layers", values, len(given))}


def _conv(options: ConvOptions, values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    count = whole("blocks", values, len(options.filters))
    if {"blocks", "width", "growth"} & set(values):
        width, growth = whole("width", values, options.filters[0]), values.get("growth", 2.0)
        if isinstance(growth, bool) or not isinstance(growth, (int, float)) or not 0 < growth <= 8:
            raise InputError(f"growth={growth!r}: expected a number above 0 and at most 8")
        most = max(MOST_CHANNELS, width)
        found["filters"] = [min(most, max(8, 8 * round(width * growth**number / 8))) for number in range(count)]
    if "convolutions" in values:
        found["convolutions"] = [whole("convolutions", values)]
    if "block" in values:
        plain_blocks = min(whole("plain_blocks", values, 0), count - 1)
        found["block"] = ["plain"] * plain_blocks + [values["block"]]
    return found


def _xception(options: XceptionOptions, values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if {"width", "blocks"} & set(values):
        width, blocks = whole("width", values, options.filters[0]), whole("blocks", values, len(options.filters))
        found["filters"] = [width * (number + 1) for number in range(blocks)]
    if "convolutions" in values:
        found["convolutions"] = whole("convolutions", values)
    return found


def _resnet(options: ResNetOptions, values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "width" in values:
        found["filters"] = whole("width", values)
    if "blocks" in values:
        found["depths"] = [whole("blocks", values)] * len(options.depths)
    return found


def whole(name: str, values: Mapping[str, Any], default: int = 0) -> int:
    """A whole number of the values; raises InputError where it is none, or below 0."""
    value = values.get(name, default)
    if isinstance(value, float) and value == 0:
        return 0
    if type(value) is not int or value < 0:
        raise InputError(f"{name}={value!r}: expected a whole number, at least 0")
    return value


def _dense(value: Any) -> list[int]:
    """Dense layers: `none`, or a width."""
    if isinstance(value, str) and value.isdecimal():
        return [int(value)]
    return [] if value == "none" else [whole("dense", {"dense": value})]


_DROPOUT = Hyperparameter("dropout", "share of features dropped before the labels", low=0.0, high=0.6, step=0.1)
_NORMALIZE = Hyperparameter("normalize", "whose mean and deviation to divide out", ("dataset", "image"))
_ACTIVATION = Hyperparameter("activation", "of each layer but the last", ("relu", "gelu", "silu", "elu"))
_DENSE = Hyperparameter("dense", "width of a dense layer before the labels", ("none", "64", "128", "256"))
_WIDTH = Hyperparameter("width", "channels of the first block", (16, 24, 32, 48))
_BLOCKS = "blocks of convolutions, each at half the resolution of the one before"
_KERNEL = Hyperparameter("kernel", "side of the convolutions, pixels", (3, 5, 7))
_CONVOLUTIONS = Hyperparameter("convolutions", "convolutions a block", (1, 2, 3))
_NORMALIZATION = Hyperparameter("normalization", "after each convolution", ("batch", "layer", "group", "none"))
_FINAL = Hyperparameter("final", "from the last block to features", ("average", "max"))
_NO_WEIGHTS, _NOT_FROZEN = ("weights", "none"), ("freeze_epochs", 0)

FAMILIES: dict[type[ModelOptions], Family] = {
    MlpOptions: Family((
        _DROPOUT, _NORMALIZE, _ACTIVATION,
        Hyperparameter("layers", "dense layers", (1, 2, 3)),
        Hyperparameter("units", "width of each", (64, 128, 256, 512, 1024)),
    ), _mlp),
    ConvOptions: Family((
        _DROPOUT, _NORMALIZE, _ACTIVATION, _DENSE, _WIDTH,
        Hyperparameter("blocks", _BLOCKS, (3, 4, 5)),
        Hyperparameter("growth", "channels of a block over those of the one before, at most 256", (1.0, 1.5, 2.0)),
        _KERNEL, _CONVOLUTIONS,
        Hyperparameter("block", "kind of the blocks", ("separable", "plain", "residual")),
        Hyperparameter("plain_blocks", "number of plain blocks at the start", (0, 1, 2), unless=(("block", "plain"),)),
        Hyperparameter("pool", "how a block halves the resolution", ("max", "average", "stride")),
        _NORMALIZATION,
        Hyperparameter("block_dropout", "share of values dropped after each block", low=0.0, high=0.4, step=0.1),
        _FINAL,
    ), _conv),
    XceptionOptions: Family((
        _DROPOUT, _NORMALIZE, _ACTIVATION, _DENSE, _WIDTH, Hyperparameter("blocks", _BLOCKS), _KERNEL, _CONVOLUTIONS,
        _NORMALIZATION, _FINAL,
    ), _xception),
    ResNetOptions: Family((
        _DROPOUT, _NORMALIZE, _ACTIVATION, _DENSE, _WIDTH, Hyperparameter("blocks", _BLOCKS), _NORMALIZATION, _FINAL,
    ), _resnet),
    ApplicationOptions: Family((
        _DROPOUT,
        Hyperparameter("weights", "weights to begin with", ("none", "imagenet")),
        Hyperparameter("freeze_epochs", "epochs in which pretrained layers stay as they are", (0, 1, 2, 4),
                       unless=(_NO_WEIGHTS,)),
        Hyperparameter("fine_tune_learning_rate", "highest learning rate after those", low=1e-6, high=1e-3, log=True,
                       unless=(_NO_WEIGHTS, _NOT_FROZEN)),
        Hyperparameter("fine_tune_layers", "pretrained layers that train after those, 0 for all", (0, 4, 20),
                       unless=(_NO_WEIGHTS, _NOT_FROZEN)),
        Hyperparameter("dense", "width of a dense layer before the labels", ("none", "128", "256", "512")),
        Hyperparameter("activation", "of that layer", ("relu", "gelu", "silu"), unless=(("dense", "none"),)),
        Hyperparameter("final", "from the last block to features"),
    )),
}  # fmt: skip
"""By the class of a model's options."""


def varied_by_models(models: Sequence[str]) -> dict[Hyperparameter, tuple[str, ...]]:
    """What a space of these models varies, those of the first model first, and the models that have it."""
    found: dict[Hyperparameter, tuple[str, ...]] = {}
    for model in models:
        for each in FAMILIES[type(MODELS[model].options)].hyperparameters:
            if each.varied and each.name not in MODELS[model].settled:
                found[each] = (*found.get(each, ()), model)
    return found

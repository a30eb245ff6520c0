"""The named spaces: models, what their families vary, and what is not about the architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainer.models import MODELS
from trainer.models.hyperparameters import FAMILIES, Hyperparameter, varied_by_models
from tuner.space.parameter import Parameter
from tuner.space.translation import MEANINGS

_SCRATCH = ("cnn-separable", "cnn3", "mlp", "xception-small", "resnet18")
_PRETRAINED = tuple(name for name, spec in MODELS.items() if spec.pretrained)


def _vary(name: str, *values: Any, when: dict[str, tuple[Any, ...]] | None = None, **range_: Any) -> Parameter:
    return Parameter(name, MEANINGS[name], values, when=tuple((when or {}).items()), **range_)


def _recipe(models: tuple[str, ...], sizes: tuple[int, ...], batches: tuple[int, ...]) -> list[Parameter]:
    """What is not about the architecture; `sizes` are for models that take images of any size."""
    own: dict[tuple[int, ...], tuple[str, ...]] = {}
    for model in models:
        chosen = MODELS[model].image_sizes or sizes
        own[chosen] = (*own.get(chosen, ()), model)
    return [
        *(_vary("image_size", *sides, when={"model": those}) for sides, those in own.items()),
        _vary("augment", "none", "light", "strong"),
        _vary("equalize", False, True),
        _vary("batch_size", *batches),
        _vary("optimizer", "adamw", "adam", "sgd", "rmsprop"),
        _vary("learning_rate", low=1e-4, high=1e-2, log=True, when={"optimizer": ("adamw", "adam", "rmsprop")}),
        _vary("learning_rate", low=1e-3, high=1e-1, log=True, when={"optimizer": ("sgd",)}),
        _vary("weight_decay", low=1e-5, high=1e-2, log=True, when={"optimizer": ("adamw",)}),
        _vary("schedule", "cosine", "constant", "exponential", "plateau"),
        _vary("class_weights", "auto", "balanced", "none"),
        _vary("label_smoothing", 0.0, 0.05, 0.1),
        _vary("ema", 0.0, 0.99),
    ]


def _of_family(own: Hyperparameter, models: tuple[str, ...], all_models: tuple[str, ...]) -> Parameter:
    """A family's hyperparameter, under the conditions on which these models have it."""
    family = FAMILIES[type(MODELS[models[0]].options)]
    when = [] if set(models) == set(all_models) else [("model", models)]
    for parent, off in own.unless:
        values = next(each.values for each in family.hyperparameters if each.name == parent)
        when.append((parent, tuple(value for value in values if value != off)))
    return Parameter(own.name, own.about, own.values, own.low, own.high, own.log, own.step, tuple(when))


def _space(
    models: tuple[str, ...], sizes: tuple[int, ...], batches: tuple[int, ...], *others: Parameter
) -> tuple[Parameter, ...]:
    # dense layers first: what they alone have is listed before what convolutions have
    found = varied_by_models(sorted(models, key=lambda model: (model not in _SCRATCH, model != "mlp")))
    families = (_of_family(own, those, models) for own, those in found.items())
    return (_vary("model", *models), *_recipe(models, sizes, batches), *families, *others)


def compact() -> tuple[Parameter, ...]:
    """Models that are trained from scratch, at sizes that a CPU copes with."""
    return _space(_SCRATCH, (64, 96, 128, 160, 224), (16, 32, 64))


def full() -> tuple[Parameter, ...]:
    """Those, and the published architectures with random or ImageNet's weights, at up to 512 pixels; for GPUs."""
    precision = _vary("mixed_precision", "bfloat16", "float32")
    return _space((*_SCRATCH, *_PRETRAINED), (96, 128, 160, 224, 320, 512), (16, 32, 64, 128), precision)


def notebooks() -> tuple[Parameter, ...]:
    """What the notebooks tried by hand: their models, with and without augmentation and equalisation."""
    presets = ("mlp-tanh", "mlp", "cnn3", "cnn-separable", "vgg16-frozen", "vgg19-frozen")
    return (_vary("preset", *presets), _vary("augment", "none", "light"), _vary("equalize", False, True))


SPACES: dict[str, Callable[[], tuple[Parameter, ...]]] = {"compact": compact, "full": full, "notebooks": notebooks}
"""Parameters by name of the space."""

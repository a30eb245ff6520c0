"""The spaces that there are by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainer.models import MODELS
from tuner.space.parameter import Parameter
from tuner.space.space import Space
from tuner.space.translation import MEANINGS

_APPLICATIONS = tuple(name for name, spec in MODELS.items() if spec.pretrained)
_FLAT = ("mlp", "cnn3")
_CONVOLUTIONAL = ("cnn3", "cnn-separable", "xception-small", "resnet18")
_SCRATCH = ("mlp", *_CONVOLUTIONAL)


def _vary(name: str, *values: Any, when: dict[str, tuple[Any, ...]] | None = None, **range_: Any) -> Parameter:
    return Parameter(name, MEANINGS[name], values, when=tuple((when or {}).items()), **range_)


def _recipe(
    sizes: tuple[int, ...], batches: tuple[int, ...], flat: tuple[str, ...], square: tuple[str, ...]
) -> list[Parameter]:
    """What is not about the architecture."""
    return [
        _vary("image_size", *sizes, when={"model": square}),
        _vary("flat_image_size", 48, 64, 96, 128, when={"model": flat}),
        _vary("augment", "none", "light", "strong"),
        _vary("equalize", False, True),
        _vary("batch_size", *batches),
        _vary("optimizer", "adamw", "adam", "sgd", "rmsprop"),
        _vary("learning_rate", low=1e-4, high=1e-2, log=True, when={"optimizer": ("adamw", "adam", "rmsprop")}),
        _vary("sgd_learning_rate", low=1e-3, high=1e-1, log=True, when={"optimizer": ("sgd",)}),
        _vary("weight_decay", low=1e-5, high=1e-2, log=True, when={"optimizer": ("adamw",)}),
        _vary("schedule", "cosine", "constant", "exponential", "plateau"),
        _vary("class_weights", "auto", "balanced", "none"),
        _vary("label_smoothing", 0.0, 0.05, 0.1),
        _vary("ema", 0.0, 0.99),
        _vary("dropout", low=0.0, high=0.6, step=0.1),
    ]


def _architecture() -> list[Parameter]:
    """Of the models that are trained from scratch, which are free in all that they have."""
    cnn = {"model": ("cnn-separable",)}
    free = {"model": ("cnn3", "cnn-separable")}
    return [
        _vary("normalize", "dataset", "image", when={"model": _SCRATCH}),
        _vary("activation", "relu", "gelu", "silu", "elu", when={"model": _SCRATCH}),
        _vary("layers", 1, 2, 3, when={"model": ("mlp",)}),
        _vary("units", 64, 128, 256, 512, 1024, when={"model": ("mlp",)}),
        _vary("dense", "none", "64", "128", "256", when={"model": _CONVOLUTIONAL}),
        _vary("width", 16, 24, 32, 48, when={"model": ("cnn-separable", "xception-small", "resnet18")}),
        _vary("blocks", 3, 4, 5, when=cnn),
        _vary("growth", 1.0, 1.5, 2.0, when=cnn),
        _vary("kernel", 3, 5, 7, when={"model": ("cnn3", "cnn-separable", "xception-small")}),
        _vary("convolutions", 1, 2, 3, when={"model": ("cnn3", "cnn-separable", "xception-small")}),
        _vary("block", "separable", "plain", "residual", when=cnn),
        _vary("plain_blocks", 0, 1, 2, when={**cnn, "block": ("separable", "residual")}),
        _vary("pool", "max", "average", "stride", when=free),
        _vary("normalization", "batch", "layer", "group", "none", when={"model": _CONVOLUTIONAL}),
        _vary("block_dropout", low=0.0, high=0.4, step=0.1, when=free),
        _vary("final", "average", "max", when={"model": ("cnn-separable", "xception-small", "resnet18")}),
    ]


def compact() -> Space:
    """Models that are trained from scratch, at sizes that a CPU copes with."""
    square = tuple(name for name in _SCRATCH if name not in _FLAT)
    model = _vary("model", "cnn-separable", "cnn3", "mlp", "xception-small", "resnet18")
    return Space("compact", (model, *_recipe((64, 96, 128, 160, 224), (16, 32, 64), _FLAT, square), *_architecture()))


def full() -> Space:
    """Those, and the published architectures with random or ImageNet's weights, at up to 512 pixels; for GPUs."""
    square = tuple(name for name in (*_SCRATCH, *_APPLICATIONS) if name not in _FLAT)
    model = _vary("model", "cnn-separable", "cnn3", "mlp", "xception-small", "resnet18", *_APPLICATIONS)
    pretrained = {"model": _APPLICATIONS, "weights": ("imagenet",)}
    thawed = {**pretrained, "freeze_epochs": (1, 2, 4)}
    published = [
        _vary("weights", "none", "imagenet", when={"model": _APPLICATIONS}),
        _vary("freeze_epochs", 0, 1, 2, 4, when=pretrained),
        _vary("fine_tune_learning_rate", low=1e-6, high=1e-3, log=True, when=thawed),
        _vary("fine_tune_layers", 0, 4, 20, when=thawed),
        _vary("head", "none", "128", "256", "512", when={"model": _APPLICATIONS}),
        _vary("head_activation", "relu", "gelu", "silu", when={"model": _APPLICATIONS, "head": ("128", "256", "512")}),
        _vary("mixed_precision", "bfloat16", "float32"),
    ]
    recipe = _recipe((96, 128, 160, 224, 320, 512), (16, 32, 64, 128), _FLAT, square)
    return Space("full", (model, *recipe, *_architecture(), *published))


def notebooks() -> Space:
    """What the notebooks tried by hand: their models, with and without augmentation and equalisation."""
    presets = ("mlp-tanh", "mlp", "cnn3", "cnn-separable", "vgg16-frozen", "vgg19-frozen")
    return Space(
        "notebooks",
        (_vary("preset", *presets), _vary("augment", "none", "light"), _vary("equalize", False, True)),
    )


SPACES: dict[str, Callable[[], Space]] = {"compact": compact, "full": full, "notebooks": notebooks}
"""By name."""

"""What the families share: normalisation, initialisation and pooling."""

from __future__ import annotations

import math

import keras
from keras import KerasTensor, layers

from cxr.errors import InputError
from trainer.models.native import Clear, Inside, MaskedGlobalPooling, MaskedGroupNormalization, MaskedPooling, halve

MOMENTUM = 0.9
"""Of BatchNormalization. Keras's 0.99 needs hundreds of steps until its averages are of use in validation."""

KEEPS_AVERAGES = 1.0
"""The momentum that marks pretrained BatchNormalization: it is never trained, so it always uses what it came with."""


def initializer(activation: str) -> str:
    """Of the weights before an activation: Glorot and Bengio (2010) for tanh, He et al. (2015) for the others."""
    return "glorot_uniform" if activation == "tanh" else "he_normal"


def normalize(x: KerasTensor, kind: str, sizes: KerasTensor | None = None) -> KerasTensor:
    """Normalises features [batch, height, width, channels], and clears them outside of the images.

    Args:
      kind: `batch`; `layer` over the channels of each pixel; `group` over at most 8 groups of channels (Wu and He
        2018); `none`.
      sizes: of the images at this resolution, see `trainer.models.native`; None where they fill the features.
    """
    inside = None if sizes is None else Inside()(x, sizes)
    if kind == "batch":
        x = layers.BatchNormalization(momentum=MOMENTUM)(x, mask=inside)
    elif kind == "layer":
        x = layers.LayerNormalization()(x)
    elif kind == "group":
        groups = math.gcd(8, x.shape[-1])
        x = layers.GroupNormalization(groups)(x) if inside is None else MaskedGroupNormalization(groups)(x, inside)
    return x if inside is None else Clear()(x, inside)


def convolve(
    x: KerasTensor, filters: int, kernel: int, stride: int, normalization: str, sizes: KerasTensor | None, start: str
) -> KerasTensor:
    """Convolves, with the initializer `start`, and normalises; `sizes` are those of the result."""
    bias = normalization == "none"
    x = layers.Conv2D(filters, kernel, stride, "same", use_bias=bias, kernel_initializer=start)(x)
    return normalize(x, normalization, sizes)


def pool(
    x: KerasTensor, kind: str, size: int, sizes: KerasTensor | None = None
) -> tuple[KerasTensor, KerasTensor | None]:
    """Features at half the resolution, by the `max` or `average` of windows of `size`, and `sizes` there."""
    if sizes is not None:
        return MaskedPooling(kind, size)(x, sizes), halve(sizes)
    layer = layers.MaxPooling2D if kind == "max" else layers.AveragePooling2D
    return layer(size, 2, "same")(x), None


def pool_all(x: KerasTensor, kind: str, sizes: KerasTensor | None = None) -> KerasTensor:
    """Features [batch, height, width, channels] as [batch, features], by `average`, `max` or `flatten`.

    Raises InputError where features of no fixed size are to be flattened.
    """
    if sizes is not None and kind != "flatten":
        return MaskedGlobalPooling(kind)(x, sizes)
    if kind == "average":
        return layers.GlobalAveragePooling2D()(x)
    if kind == "max":
        return layers.GlobalMaxPooling2D()(x)
    if None in x.shape[1:]:
        raise InputError(
            "a model that flattens its features works at one image size only, and the images come in several; "
            "set the image size, or take a model with final=average"
        )
    return layers.Flatten()(x)


def leaf_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a model in order, with those of nested models in their place."""
    leaves: list[keras.layers.Layer] = []
    for layer in model.layers:
        leaves += leaf_layers(layer) if isinstance(layer, keras.Model) else [layer]
    return leaves

"""What the families share: normalisation, initialisation and pooling."""

from __future__ import annotations

import math

import keras
from keras import KerasTensor, layers

from cxr.errors import InputError

MOMENTUM = 0.9
"""Of BatchNormalization. Keras's 0.99 needs hundreds of steps until its averages are of use in validation."""

KEEPS_AVERAGES = 1.0
"""The momentum that marks pretrained BatchNormalization: it is never trained, so it always uses what it came with."""


def initializer(activation: str) -> str:
    """Of the weights before an activation: Glorot and Bengio (2010) for tanh, He et al. (2015) for the others."""
    return "glorot_uniform" if activation == "tanh" else "he_normal"


def normalize(x: KerasTensor, kind: str) -> KerasTensor:
    """Normalises features [batch, height, width, channels].

    Args:
      x: features.
      kind: `batch`; `layer` over the channels of each pixel; `group` over at most 8 groups of channels (Wu and He
        2018); `none`.
    """
    if kind == "batch":
        return layers.BatchNormalization(momentum=MOMENTUM)(x)
    if kind == "layer":
        return layers.LayerNormalization()(x)
    if kind == "group":
        return layers.GroupNormalization(groups=math.gcd(8, x.shape[-1]))(x)
    return x


def pool_all(x: KerasTensor, kind: str) -> KerasTensor:
    """Features [batch, height, width, channels] as [batch, features], by `average`, `max` or `flatten`.

    Raises:
      InputError: features of no fixed size cannot be flattened.
    """
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

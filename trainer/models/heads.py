"""The parts around a backbone, and which of a model's layers are trained."""

from __future__ import annotations

import math
from typing import Literal

import keras
from keras import KerasTensor, layers

from cxr.errors import InputError
from trainer.models.applications import build_application
from trainer.models.conv import build_conv, build_xception
from trainer.models.layers import KEEPS_AVERAGES, initializer, leaf_layers, pool_all
from trainer.models.model_options import ApplicationOptions, ConvOptions, ModelOptions, ResNetOptions, XceptionOptions
from trainer.models.native import Clear, Inside, PadToMultiple
from trainer.models.resnet import build_resnet

PIXELS = "backbone_pixels"
FEATURES = "backbone_features"
"""Layers that do nothing, on both sides of the backbone: Grad-CAM takes the model apart there."""


def wrap_backbone(
    name: str, inputs: KerasTensor, options: ModelOptions, weights: str, sizes: KerasTensor | None = None
) -> KerasTensor:
    """A family's own layers as one nested model, between the layers `PIXELS` and `FEATURES`.

    At native size the nested model has two inputs: pixels, and the sizes of the images among them. Raises InputError
    for images of other than 1 or 3 channels, or too small, and weights that do not fit.
    """
    if len(inputs.shape) != 4 or inputs.shape[-1] not in (1, 3):
        raise InputError(f"model '{name}': expected images [batch, height, width, 1 or 3]; received {inputs.shape}")
    if isinstance(options, ApplicationOptions):
        features = build_application(name, inputs, options, weights, PIXELS)
    else:
        pixels = layers.Identity(name=PIXELS)(inputs)
        x = keras.Input(pixels.shape[1:], dtype=pixels.dtype)
        if sizes is None:
            features = keras.Model(x, _build_own(x, options), name="backbone")(pixels)
        else:
            own_sizes = keras.Input(sizes.shape[1:], dtype=sizes.dtype)
            padded = PadToMultiple(2 ** (options.halvings or 0))(x)
            padded = Clear()(padded, Inside()(padded, own_sizes))
            backbone = keras.Model([x, own_sizes], _build_own(padded, options, own_sizes), name="backbone")
            features = backbone([pixels, sizes])
    return layers.Identity(name=FEATURES)(features)


def _build_own(x: KerasTensor, options: ModelOptions, sizes: KerasTensor | None = None) -> KerasTensor:
    if isinstance(options, ConvOptions):
        return build_conv(x, options, sizes)
    if isinstance(options, XceptionOptions):
        return build_xception(x, options, sizes)
    if isinstance(options, ResNetOptions):
        return build_resnet(x, options, sizes)
    return pool_all(x, "flatten")


def build_dense(x: KerasTensor, options: ModelOptions) -> KerasTensor:
    """Dense layers with dropout between them: features [batch, features] from such."""
    for number, width in enumerate(options.dense):
        if number:
            x = layers.Dropout(options.dropout)(x)
        x = layers.Dense(width, options.activation, kernel_initializer=initializer(options.activation))(x)
    return x


def build_labels(features: KerasTensor, labels: int, multi_label: bool, dropout: float) -> KerasTensor:
    """Dropout, then one score a label, then probabilities.

    The scores are the output of the layer `scores`; layers `scores` and `probabilities` compute in float32 under any
    policy. Probabilities are the sigmoid of each score where multi-label, else the softmax over them.

    Returns:
      Probabilities, float32 [batch, labels], of features [batch, features].

    Raises:
      InputError: fewer labels than 2 (1 for multi-label).
    """
    if labels < (1 if multi_label else 2):
        raise InputError(f"a classifier of {labels} labels: expected at least {1 if multi_label else 2}")
    x = layers.Dropout(dropout, name="scores_dropout")(features)
    x = layers.Dense(labels, dtype="float32", name="scores")(x)
    return layers.Activation("sigmoid" if multi_label else "softmax", dtype="float32", name="probabilities")(x)


def find_backbone(model: keras.Model) -> keras.Model:
    """The nested model between `PIXELS` and `FEATURES`; raises InputError where the model has none."""
    names = [layer.name for layer in model.layers]
    if FEATURES in names:
        for layer in reversed(model.layers[: names.index(FEATURES)]):
            if isinstance(layer, keras.Model):
                return layer
    raise InputError(f"model '{model.name}' was not built by trainer.models: it has no layer '{FEATURES}'")


def set_trainable(model: keras.Model, part: Literal["head", "all"] | int) -> int:
    """Freezes the backbone of a classifier, or part of it. Compile the model afterwards.

    Args:
      model: built on `trainer.models.build_model`.
      part: `head` freezes the backbone, `all` nothing; a number n leaves its last n layers with weights trainable.
        Pretrained batch normalisation is never trained and does not count.

    Returns:
      The number of weights that are trained now.

    Raises:
      InputError: the model has no backbone.
    """
    backbone = find_backbone(model)
    every = [layer for layer in leaf_layers(backbone) if layer.weights]
    weighted = [layer for layer in every if getattr(layer, "momentum", None) != KEEPS_AVERAGES]
    kept = part if isinstance(part, int) else len(weighted) if part == "all" else 0
    trained = weighted[max(0, len(weighted) - kept) :]
    backbone.trainable = True
    for layer in every:  # each, as TensorFlow ignores setting what the backbone is already
        layer.trainable = layer in trained
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)

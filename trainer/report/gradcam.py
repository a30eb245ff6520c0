"""Grad-CAM: where in an image a model sees a label (Selvaraju et al., ICCV 2017).

The model is taken apart at its last feature map, and the score of the label (before softmax or sigmoid) is
differentiated with respect to that map. It works on models that were built by `trainer.models`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import keras
import numpy as np
from keras import layers

from cxr.errors import InputError
from trainer.models.heads import FEATURES, PIXELS, find_backbone
from trainer.models.native import MaskedPooling, PadToMultiple

GRADIENT_SCALE = 1024.0
"""Keeps small gradients above what float16 can hold. The heat is scaled to [0, 1] in the end, so nothing undoes it."""

BATCH = 32
"""Images at a time."""
_NOT_FEATURES = (
    layers.InputLayer, layers.MaxPooling2D, layers.AveragePooling2D, MaskedPooling, layers.Dropout,
    layers.ZeroPadding2D,
)  # fmt: skip
"""Layers behind which no map is taken: behind the last pooling it has half the resolution, at the input no features."""


def has_feature_map(model: keras.Model) -> bool:
    """Whether a model of `trainer.models` has a feature map to look at; dense layers on pixels have none."""
    return _last_map(find_backbone(model)) is not None


def gradcam(model: keras.Model, images: Any, labels: Sequence[int] | np.ndarray) -> np.ndarray:
    """Heat maps of what speaks for a label.

    Args:
      model: a classifier built by `trainer.models`, from raw pixels to probabilities, with a feature map.
      images: as the model takes them, uint8 or uint16 [n, height, width, channels]; at native size
        `{"image": ..., "mask": ...}`.
      labels: index of the label to look for in each image, int [n].

    Returns:
      float32 [n, height, width] in [0, 1]; 1 is the hottest pixel of each image. All 0 where nothing speaks for it.

    Raises:
      InputError: the Keras backend is neither TensorFlow nor JAX.
    """
    pixels = images["image"] if isinstance(images, dict) else images
    to_map, to_scores = _take_apart(model)
    chosen = np.eye(model.output_shape[-1], dtype=np.float32)[labels]
    heat = np.zeros(pixels.shape[:3], np.float32)
    height, width = pixels.shape[1:3]
    multiple = max((one.multiple for one in find_backbone(model).layers if isinstance(one, PadToMultiple)), default=1)
    padded = (width + -width % multiple, height + -height % multiple)
    for start in range(0, len(pixels), BATCH):
        part = slice(start, start + BATCH)
        maps, *sizes = to_map(keras.tree.map_structure(lambda values, part=part: values[part], images))
        maps = keras.ops.cast(maps, "float32")

        def score(maps: Any, sizes: list[Any] = sizes, part: slice = part) -> Any:
            return keras.ops.sum(to_scores(maps, *sizes) * chosen[part]) * GRADIENT_SCALE

        weights = keras.ops.convert_to_numpy(_gradient(score, maps)).mean((1, 2), keepdims=True)
        coarse = np.maximum((weights * keras.ops.convert_to_numpy(maps)).sum(-1), 0)
        for row, image in enumerate(coarse, start):
            fine = cv2.resize(image, padded, interpolation=cv2.INTER_LINEAR)[:height, :width]
            if isinstance(images, dict):
                fine = fine * images["mask"][row, ..., 0]
            heat[row] = fine / fine.max() if fine.max() > 0 else 0
    return heat


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """An image with heat in colour over it; the cold parts stay as they are.

    Args:
      image: uint8 [height, width, 1 or 3].
      heat: float32 [height, width] in [0, 1]; at 1 the colour covers half.

    Returns:
      uint8 [height, width, 3], red, green, blue.
    """
    cover = heat[..., None] / 2
    colour = cv2.applyColorMap(np.rint(heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    return np.rint(image * (1 - cover) + colour * cover).astype(np.uint8)


def _last_map(backbone: keras.Model) -> keras.KerasTensor | None:
    """The last features [batch, height, width, channels] before the last pooling; None where there are none."""
    for operation in reversed(backbone.operations):  # not only layers: ConvNeXt adds without one
        if not isinstance(operation, _NOT_FEATURES) and len(operation.output.shape) == 4:
            return operation.output
    return None


def _take_apart(model: keras.Model) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """From raw pixels to the last feature map, and from there to scores [batch, labels].

    The map comes in a list, at native size with the sizes of the images, which the scores need too.
    """
    backbone = find_backbone(model)
    last = _last_map(backbone)
    pixels, features, scores = (model.get_layer(name).output for name in (PIXELS, FEATURES, "scores"))
    own_sizes = backbone.inputs[1:]
    outer = [pixels, model.get_layer("sizes").output] if own_sizes else pixels
    inner = [last, *own_sizes] if own_sizes else last
    before = keras.Model(model.input, outer)
    encoder = keras.Model(backbone.input, inner)
    decoder = keras.Model(inner, backbone.output)
    after = keras.Model(features, scores)

    def to_map(images: Any) -> list[Any]:
        maps = encoder(before(images, training=False), training=False)
        return list(maps) if own_sizes else [maps]

    def to_scores(*parts: Any) -> Any:
        return after(decoder(list(parts) if own_sizes else parts[0], training=False), training=False)

    return to_map, to_scores


def _gradient(function: Callable[[Any], Any], at: Any) -> Any:
    """Of a scalar function with respect to its argument, a tensor of the backend, which is TensorFlow or JAX."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(at)
            value = function(at)
        return tape.gradient(value, at)
    if backend == "jax":
        import jax

        return jax.grad(function)(at)
    raise InputError(f"Grad-CAM has no gradient on the Keras backend '{backend}'; expected tensorflow or jax")

"""Residual networks of basic blocks, which `keras.applications` has not: ResNet-18 and ResNet-34."""

from __future__ import annotations

from keras import KerasTensor, layers

from trainer.models.layers import normalize, pool_all
from trainer.models.model_options import ResNetOptions


def build_resnet(x: KerasTensor, options: ResNetOptions) -> KerasTensor:
    """ResNet of basic blocks (He et al. 2015, table 1): depths=2,2,2,2 is ResNet-18, depths=3,4,6,3 is ResNet-34.

    Args:
      x: normalised pixels [batch, height, width, channels].
      options: the first block of each stage but the first halves the resolution and doubles the channels.

    Returns:
      Features [batch, features].
    """
    x = _convolve(x, options.filters, 7, 2, options)
    x = layers.Activation(options.activation)(x)
    x = layers.MaxPooling2D(3, 2, "same")(x)
    for stage, depth in enumerate(options.depths):
        for number in range(depth):
            stride = 2 if stage and not number else 1
            x = _basic_block(x, options.filters << stage, stride, options)
    return pool_all(x, options.final)


def _basic_block(x: KerasTensor, filters: int, stride: int, options: ResNetOptions) -> KerasTensor:
    shortcut = x
    x = _convolve(x, filters, 3, stride, options)
    x = layers.Activation(options.activation)(x)
    x = _convolve(x, filters, 3, 1, options)
    if stride > 1 or shortcut.shape[-1] != filters:
        shortcut = _convolve(shortcut, filters, 1, stride, options)
    x = layers.Add()([x, shortcut])
    return layers.Activation(options.activation)(x)


def _convolve(x: KerasTensor, filters: int, kernel: int, stride: int, options: ResNetOptions) -> KerasTensor:
    bias = options.normalization == "none"
    x = layers.Conv2D(filters, kernel, stride, "same", use_bias=bias, kernel_initializer="he_normal")(x)
    return normalize(x, options.normalization)

"""Residual networks of basic blocks, which `keras.applications` has not: ResNet-18 and ResNet-34."""

from __future__ import annotations

from keras import KerasTensor, layers

from trainer.models.layers import convolve, pool, pool_all
from trainer.models.model_options import ResNetOptions
from trainer.models.native import halve


def build_resnet(x: KerasTensor, options: ResNetOptions, sizes: KerasTensor | None = None) -> KerasTensor:
    """ResNet of basic blocks (He et al. 2015, table 1): depths=2,2,2,2 is ResNet-18, depths=3,4,6,3 is ResNet-34.

    The first block of each stage but the first halves the resolution and doubles the channels. Input, `sizes` and
    result are as those of `trainer.models.conv.build_conv`.
    """
    sizes = halve(sizes)
    x = _convolve(x, options.filters, 7, 2, options, sizes)
    x = layers.Activation(options.activation)(x)
    x, sizes = pool(x, "max", 3, sizes)
    for stage, depth in enumerate(options.depths):
        for number in range(depth):
            stride = 2 if stage and not number else 1
            sizes = halve(sizes, stride)
            x = _basic_block(x, options.filters << stage, stride, options, sizes)
    return pool_all(x, options.final, sizes)


def _basic_block(
    x: KerasTensor, filters: int, stride: int, options: ResNetOptions, sizes: KerasTensor | None
) -> KerasTensor:
    shortcut = x
    x = _convolve(x, filters, 3, stride, options, sizes)
    x = layers.Activation(options.activation)(x)
    x = _convolve(x, filters, 3, 1, options, sizes)
    if stride > 1 or shortcut.shape[-1] != filters:
        shortcut = _convolve(shortcut, filters, 1, stride, options, sizes)
    x = layers.Add()([x, shortcut])
    return layers.Activation(options.activation)(x)


def _convolve(
    x: KerasTensor, filters: int, kernel: int, stride: int, options: ResNetOptions, sizes: KerasTensor | None
) -> KerasTensor:
    return convolve(x, filters, kernel, stride, options.normalization, sizes, "he_normal")

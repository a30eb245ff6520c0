"""Convolutional networks made to be trained from scratch on thousands of X-rays."""

from __future__ import annotations

from keras import KerasTensor, layers

from trainer.models.layers import convolve, initializer, normalize, pool, pool_all
from trainer.models.model_options import ConvOptions, XceptionOptions
from trainer.models.native import halve


def build_conv(x: KerasTensor, options: ConvOptions, sizes: KerasTensor | None = None) -> KerasTensor:
    """Blocks of convolutions: each convolves, halves the resolution and drops out.

    A block is `plain`, `separable` (depthwise, then pointwise; Chollet 2017) or `residual` (its input is added to its
    output; He et al. 2015); the resolution is halved by max or average pooling, or by the stride of its first
    convolution. Normalised pixels [batch, height, width, channels] become features [batch, features]; `sizes` are those
    of the images, see `trainer.models.native`, None where they fill `x`.
    """
    for filters, kind, convolutions in options.blocks:
        stride = 2 if options.pool == "stride" else 1
        shortcut, sizes = x, halve(sizes, stride)
        for number in range(convolutions):
            last = number == convolutions - 1
            x = _convolve(x, filters, options, kind == "separable", stride if number == 0 else 1, sizes)
            if not (last and kind == "residual"):
                x = layers.Activation(options.activation)(x)
        if kind == "residual":
            x = layers.Add()([x, _project(shortcut, filters, stride, options, sizes)])
            x = layers.Activation(options.activation)(x)
        if options.pool != "stride":
            x, sizes = pool(x, options.pool, 2, sizes)
        if options.block_dropout:
            x = layers.Dropout(options.block_dropout)(x)
    return pool_all(x, options.final, sizes)


def build_xception(x: KerasTensor, options: XceptionOptions, sizes: KerasTensor | None = None) -> KerasTensor:
    """A small Xception (Chollet 2017): its entry flow with few channels, then one wider separable convolution.

    A block activates and convolves `convolutions` times, pools, and adds its projected input. Input, `sizes` and result
    are as those of `build_conv`.
    """
    for filters, stride in ((32, 2), (64, 1)):
        sizes = halve(sizes, stride)
        start = initializer(options.activation)
        x = layers.Conv2D(filters, 3, stride, "same", use_bias=False, kernel_initializer=start)(x)
        x = normalize(x, options.normalization, sizes)
        x = layers.Activation(options.activation)(x)
    for filters in options.filters:
        shortcut = _project(x, filters, 2, options, halve(sizes))
        for _ in range(options.convolutions):
            x = layers.Activation(options.activation)(x)
            x = _convolve(x, filters, options, separable=True, sizes=sizes)
        x, sizes = pool(x, "max", 3, sizes)
        x = layers.Add()([x, shortcut])
    x = _convolve(x, options.filters[-1] * 4 // 3, options, separable=True, sizes=sizes)
    x = layers.Activation(options.activation)(x)
    return pool_all(x, options.final, sizes)


def _convolve(
    x: KerasTensor, filters: int, options: ConvOptions | XceptionOptions, separable: bool, stride: int = 1,
    sizes: KerasTensor | None = None,
) -> KerasTensor:  # fmt: skip
    """Convolves, separably or not, and normalises; `sizes` are those of the result."""
    start = initializer(options.activation)
    if not separable:
        return convolve(x, filters, options.kernel, stride, options.normalization, sizes, start)
    x = layers.SeparableConv2D(
        filters, options.kernel, stride, "same", use_bias=options.normalization == "none",
        depthwise_initializer=start, pointwise_initializer=start,
    )(x)  # fmt: skip
    return normalize(x, options.normalization, sizes)


def _project(
    x: KerasTensor, filters: int, stride: int, options: ConvOptions | XceptionOptions, sizes: KerasTensor | None
) -> KerasTensor:
    """A shortcut in the shape of what it is added to."""
    if x.shape[-1] == filters and stride == 1:
        return x
    return convolve(x, filters, 1, stride, options.normalization, sizes, "glorot_uniform")

"""Convolutional networks made to be trained from scratch on thousands of X-rays."""

from __future__ import annotations

from keras import KerasTensor, layers

from trainer.models.layers import initializer, normalize, pool_all
from trainer.models.model_options import ConvOptions, XceptionOptions


def build_conv(x: KerasTensor, options: ConvOptions) -> KerasTensor:
    """Blocks of convolutions: each convolves, halves the resolution and drops out.

    Args:
      x: normalised pixels [batch, height, width, channels].
      options: a block is `plain`, `separable` (depthwise, then pointwise; Chollet 2017) or `residual` (its input
        is added to its output; He et al. 2015); the resolution is halved by max or average pooling, or by the
        stride of its first convolution.

    Returns:
      Features [batch, features].
    """
    for filters, kind, convolutions in options.blocks:
        stride = 2 if options.pool == "stride" else 1
        shortcut = x
        for number in range(convolutions):
            last = number == convolutions - 1
            x = _convolve(x, filters, options, kind == "separable", stride if number == 0 else 1)
            if not (last and kind == "residual"):
                x = layers.Activation(options.activation)(x)
        if kind == "residual":
            x = layers.Add()([x, _project(shortcut, filters, stride, options)])
            x = layers.Activation(options.activation)(x)
        if options.pool == "max":
            x = layers.MaxPooling2D(2, padding="same")(x)
        elif options.pool == "average":
            x = layers.AveragePooling2D(2, padding="same")(x)
        if options.block_dropout:
            x = layers.Dropout(options.block_dropout)(x)
    return pool_all(x, options.final)


def build_xception(x: KerasTensor, options: XceptionOptions) -> KerasTensor:
    """A small Xception (Chollet 2017): its entry flow with few channels, then one wider separable convolution.

    Args:
      x: normalised pixels [batch, height, width, channels].
      options: a block of it activates and convolves `convolutions` times, pools, and adds its projected input.

    Returns:
      Features [batch, features].
    """
    for filters, stride in ((32, 2), (64, 1)):
        x = layers.Conv2D(
            filters, 3, stride, "same", use_bias=False, kernel_initializer=initializer(options.activation)
        )(x)
        x = normalize(x, options.normalization)
        x = layers.Activation(options.activation)(x)
    for filters in options.filters:
        shortcut = _project(x, filters, 2, options)
        for _ in range(options.convolutions):
            x = layers.Activation(options.activation)(x)
            x = _convolve(x, filters, options, separable=True)
        x = layers.MaxPooling2D(3, 2, "same")(x)
        x = layers.Add()([x, shortcut])
    x = _convolve(x, options.filters[-1] * 4 // 3, options, separable=True)
    x = layers.Activation(options.activation)(x)
    return pool_all(x, options.final)


def _convolve(
    x: KerasTensor, filters: int, options: ConvOptions | XceptionOptions, separable: bool, stride: int = 1
) -> KerasTensor:
    bias = options.normalization == "none"
    start = initializer(options.activation)
    if separable:
        x = layers.SeparableConv2D(
            filters,
            options.kernel,
            stride,
            "same",
            use_bias=bias,
            depthwise_initializer=start,
            pointwise_initializer=start,
        )(x)
    else:
        x = layers.Conv2D(filters, options.kernel, stride, "same", use_bias=bias, kernel_initializer=start)(x)
    return normalize(x, options.normalization)


def _project(x: KerasTensor, filters: int, stride: int, options: ConvOptions | XceptionOptions) -> KerasTensor:
    """A shortcut in the shape of what it is added to."""
    if x.shape[-1] == filters and stride == 1:
        return x
    x = layers.Conv2D(filters, 1, stride, "same", use_bias=options.normalization == "none")(x)
    return normalize(x, options.normalization)

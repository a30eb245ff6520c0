"""What a model needs to take images at their own size, padded at the bottom and right to one shape a batch.

Padding must not change a prediction. Features outside of an image are therefore 0 before each convolution, as they
are beyond the border of a batch; statistics and pooling count the features inside only; and sides are padded to a
multiple of all halvings together, so that "same" padding, which depends on whether a side is even, is the same
whatever the size of the batch. An image's features stay at the top left: at half the resolution an image of n
pixels has ceil(n / 2), so its height and width say at every resolution where it is.

Layers take features [batch, height, width, channels] and `sizes`, int32 [batch, 2]: the height and width of each image
at the resolution of the features. An image of 0 pixels is allowed, and gives finite numbers.
"""

from __future__ import annotations

from typing import Any

from keras import KerasTensor, layers, ops


def inside(features: Any, sizes: Any) -> Any:
    """Which features belong to the image, bool [batch, height, width]."""
    height, width = ops.shape(features)[1:3]
    rows = ops.arange(height, dtype="int32") < ops.cast(sizes[:, :1], "int32")
    columns = ops.arange(width, dtype="int32") < ops.cast(sizes[:, 1:], "int32")
    return ops.logical_and(rows[:, :, None], columns[:, None, :])


def halve(sizes: KerasTensor | None, stride: int = 2) -> KerasTensor | None:
    """Sizes at half the resolution; the same for a stride of 1, and where images have one size."""
    return sizes if sizes is None or stride == 1 else (sizes + 1) // 2


class _Features(layers.Layer):
    """Features of the same shape as the first argument, unless a layer says otherwise."""

    supports_masking = True

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        """Ends the way of the mask that batch normalisation hands on: later layers are given `sizes`."""

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return tuple(input_shape)


class ImageSizes(_Features):
    """A mask, bool [batch, height, width, 1], to the height and width of the images at its top left."""

    def call(self, mask: Any) -> Any:
        mask = ops.cast(mask, "int32")
        return ops.stack([ops.sum(mask[:, :, 0, 0], axis=1), ops.sum(mask[:, 0, :, 0], axis=1)], axis=1)

    def compute_output_spec(self, mask: Any) -> KerasTensor:
        return KerasTensor((mask.shape[0], 2), dtype="int32")


class Inside(_Features):
    """`inside` as a layer."""

    def call(self, features: Any, sizes: Any) -> Any:
        return inside(features, sizes)

    def compute_output_spec(self, features: Any, sizes: Any) -> KerasTensor:
        return KerasTensor(features.shape[:-1], dtype="bool")


class Clear(_Features):
    """Features with 0 outside of the image; takes what `Inside` gives."""

    def call(self, features: Any, inside: Any) -> Any:
        return features * ops.cast(inside, features.dtype)[..., None]


class PadToMultiple(_Features):
    """Pads with 0 at the bottom and right until both sides are a multiple of `multiple`."""

    def __init__(self, multiple: int, **options: Any):
        super().__init__(**options)
        self.multiple = multiple

    def call(self, features: Any) -> Any:
        height, width = ops.shape(features)[1:3]
        return ops.pad(features, [[0, 0], [0, -height % self.multiple], [0, -width % self.multiple], [0, 0]])

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, *sides, channels = input_shape
        return (batch, *(side and side + -side % self.multiple for side in sides), channels)


class MaskedGroupNormalization(layers.GroupNormalization):
    """Group normalisation by the mean and variance inside the image; takes what `Inside` gives."""

    def call(self, inputs: Any, inside: Any) -> Any:
        features = self._reshape_into_groups(ops.cast(inputs, "float32"))
        weights = ops.cast(inside, "float32")[..., None, None]
        count = ops.maximum(ops.sum(weights, axis=(1, 2), keepdims=True), 1) * features.shape[-1]

        def mean(values: Any) -> Any:
            return ops.sum(values * weights, axis=(1, 2, 4), keepdims=True) / count

        centred = features - mean(features)
        normalised = centred * ops.rsqrt(mean(ops.square(centred)) + self.epsilon)
        normalised = ops.reshape(normalised, ops.shape(inputs))
        return ops.cast(normalised * self.gamma + self.beta, self.compute_dtype)


class MaskedPooling(_Features):
    """Halves the resolution: the maximum or mean of those features of a window that are inside the image."""

    def __init__(self, kind: str, size: int, **options: Any):
        super().__init__(**options)
        self.kind, self.size = kind, size

    def call(self, features: Any, sizes: Any) -> Any:
        weights = ops.cast(inside(features, sizes), features.dtype)[..., None]
        if self.kind == "average":
            share = ops.average_pool(weights, self.size, 2, "same")
            pooled = ops.average_pool(features * weights, self.size, 2, "same") / ops.maximum(share, 0.5 / self.size**2)
        else:
            pooled = ops.max_pool(ops.where(weights > 0, features, _least(features)), self.size, 2, "same")
        return ops.where(inside(pooled, (sizes + 1) // 2)[..., None], pooled, ops.zeros_like(pooled))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, *sides, channels = input_shape
        return (batch, *(side and -(-side // 2) for side in sides), channels)


class MaskedGlobalPooling(_Features):
    """The maximum or mean over the image, [batch, channels]; the mean is taken in float32."""

    def __init__(self, kind: str, **options: Any):
        super().__init__(**options)
        self.kind = kind

    def call(self, features: Any, sizes: Any) -> Any:
        belongs = inside(features, sizes)[..., None]
        if self.kind == "max":
            return ops.max(ops.where(belongs, features, _least(features)), axis=(1, 2))
        weights = ops.cast(belongs, "float32")
        total = ops.sum(ops.cast(features, "float32") * weights, axis=(1, 2))
        return ops.cast(total / ops.maximum(ops.sum(weights, axis=(1, 2)), 1), self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], input_shape[-1])


def _least(features: Any) -> Any:
    """Less than any feature, in every number format."""
    return ops.cast(-6e4, features.dtype)

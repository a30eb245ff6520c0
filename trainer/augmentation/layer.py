"""What all augmentation layers share: whom they act on, their random numbers, and rest at inference.

A layer acts on a share of each batch that is exact on average, and costs only as much as that share: it takes
so many images at random out of the batch, changes these alone, and puts them back. Computing every image and
then selecting, as is often done, costs the whole batch whatever the probability.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from trainer.models.pixels import PixelLayer


class RandomImageLayer(PixelLayer):
    """Changes images at random while training; returns its very input otherwise.

    Input and output: float32 `[batch, height, width, channels]` in [0, 1]. Where images do not fill the batch, they
    come with `sizes`, int32 `[batch, 2]`, the height and width of each, and `ExtendBorders` goes before.
    Every image gets draws of its own. The random state is one of the layer's variables, so a model that is restored
    from a checkpoint continues with the same sequence.

    A subclass overrides `change`.

    Args:
      probability: of acting on an image, above 0 up to 1. Of n images, n * probability are chosen, without
        replacement; where that is no whole number, it is rounded down or up at random so that the mean is exact.
      seed: of the random numbers; layers with equal seeds draw equal numbers.
    """

    def __init__(self, *, probability: float = 1.0, seed: int = 0, **options: Any):
        super().__init__(**options)
        self.probability = probability
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def change(self, images: Any, sizes: Any) -> Any:
        """The images changed, of the same shape and in [0, 1] again.

        Args:
          images: float32 `[count, height, width, channels]` in [0, 1]; at least one.
          sizes: int32 `[count, 2]`, height and width of each; None where the images fill the batch.
        """
        raise NotImplementedError

    def call(self, images: Any, sizes: Any = None, training: bool = False) -> Any:
        if not training:
            return images
        if self.probability == 1:
            return self.change(images, sizes)
        count = ops.shape(images)[0]
        if isinstance(count, int):
            share = count * self.probability
            chosen = math.ceil(share)
        else:  # TensorFlow compiles once for all sizes of batch
            share = ops.cast(count, "float32") * self.probability
            chosen = ops.cast(ops.ceil(share), "int32")
        rows = ops.cast(ops.argsort(self.uniform(count))[:chosen], "int32")
        changed = self.change(ops.take(images, rows, axis=0), None if sizes is None else ops.take(sizes, rows, axis=0))
        # Where to take each image from: itself, or its changed form; the last one is chosen with what remains.
        sources = count + ops.arange(chosen, dtype="int32")
        last = ops.arange(chosen, dtype="int32") == chosen - 1
        spared = self.uniform(1) >= share - ops.cast(chosen - 1, "float32")
        sources = ops.where(ops.logical_and(last, spared), rows, sources)
        index = ops.scatter_update(ops.arange(count, dtype="int32"), rows[:, None], sources)
        mixed = ops.take(ops.concatenate([images, changed]), index, axis=0)
        return ops.reshape(mixed, (-1, *ops.shape(images)[1:]))

    def uniform(self, *shape: Any, low: float = 0.0, high: float = 1.0) -> Any:
        """Draws float32 `shape` in [low, high)."""
        return keras.random.uniform(shape, low, high, dtype="float32", seed=self.generator)

    def per_image(self, images: Any, low: Any, high: Any) -> Any:
        """One draw in [low, high) for each image, float32 `[count, 1, 1, 1]`; so may the bounds be."""
        if not isinstance(high, (int, float)):
            return low + (high - low) * self.uniform(ops.shape(images)[0], 1, 1, 1)
        return self.uniform(ops.shape(images)[0], 1, 1, 1, low=low, high=high)

    def factors(self, images: Any, extent: float) -> Any:
        """One factor for each image, float32 `[count, 1, 1, 1]` in [1 / (1 + extent), 1 + extent).

        Its logarithm is uniform: as many factors are below 1 as above, and halving is as likely as doubling.
        """
        return ops.exp(self.per_image(images, -math.log1p(extent), math.log1p(extent)))


def sides(images: Any, sizes: Any) -> tuple[Any, Any]:
    """Height and width: whole numbers where the images fill the batch, else of each, float32 `[count, 1, 1, 1]`."""
    if sizes is None:
        return images.shape[1], images.shape[2]
    sizes = ops.cast(sizes, "float32")
    return sizes[:, 0, None, None, None], sizes[:, 1, None, None, None]


class ExtendBorders(PixelLayer):
    """Repeats the last row and column of each image over the padding while training; see `RandomImageLayer`.

    What then mixes neighbours or looks beyond the border (blur, blocks of JPEG, a rotation) finds no black edge there.
    """

    def call(self, images: Any, sizes: Any, training: bool = False) -> Any:
        if not training:
            return images
        for axis in (1, 2):
            shape = [1, -1, 1, 1] if axis == 1 else [1, 1, -1, 1]
            place = ops.reshape(ops.arange(ops.shape(images)[axis], dtype="int32"), shape)
            last = (sizes[:, axis - 1] - 1)[:, None, None, None]
            border = ops.sum(ops.where(place == last, images, 0.0), axis=axis, keepdims=True)
            images = ops.where(place > last, border, images)
        return images

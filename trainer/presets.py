"""Whole recipes by name: what is recommended, and each recipe of the notebooks, done right.

The notebooks' recipes are what is commonly published with the Kermany data set: their architecture, image size,
optimizer, epochs, augmentation, equalisation, class weights and early stopping. What is done right is the rest: splits
by patient, validation on more than 16 images, every image at the quality it was stored in, and thresholds chosen on
validation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Preset:
    """A recipe.

    Attributes:
      text: what it is, in a line.
      config: fields of `trainer.train_config.TrainConfig` that differ from the defaults.
    """

    text: str
    config: Mapping[str, Any]


_NOTEBOOK = {"weight_decay": 0.0, "schedule": "constant", "warmup_epochs": 0.0, "monitor": "val_loss"}
_SEPARABLE = {
    **_NOTEBOOK, "model": "cnn-separable", "image_size": 224, "optimizer": "adam", "learning_rate": 1e-4,
    "schedule": "plateau", "batch_size": 16, "epochs": 10, "early_stopping": 5, "class_weights": "auto",
}  # fmt: skip
_VGG = {
    **_NOTEBOOK, "weights": "imagenet", "image_size": 224, "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 32,
    "epochs": 10, "freeze_epochs": 10, "augment": "none", "class_weights": "none", "early_stopping": 3,
}  # fmt: skip

PRESETS: dict[str, Preset] = {
    "robust": Preset(
        "recommended: keeps its specificity on images that were compressed, blurred or exposed otherwise",
        {"model": "cnn-separable", "image_size": 96, "equalize": True, "augment": "strong", "epochs": 10,
         "learning_rate": 2e-3},
    ),
    "mlp-tanh": Preset(
        "notebook: the baseline, a tanh layer and SGD on 64 pixels",
        {**_NOTEBOOK, "model": "mlp-tanh", "image_size": 64, "optimizer": "sgd", "learning_rate": 0.01, "epochs": 20,
         "augment": "none", "class_weights": "none"},
    ),
    "mlp": Preset(
        "notebook: dense layers with dropout on 64 pixels, Adam",
        {**_NOTEBOOK, "model": "mlp", "image_size": 64, "optimizer": "adam", "epochs": 20, "augment": "none",
         "class_weights": "none", "early_stopping": 5},
    ),
    "cnn3": Preset(
        "notebook: three convolution blocks with pooling and dropout on 150 pixels, RMSprop, augmented",
        {**_NOTEBOOK, "model": "cnn3", "image_size": 150, "optimizer": "rmsprop", "schedule": "plateau", "epochs": 12,
         "augment": "light", "class_weights": "none", "early_stopping": 4},
    ),
    "cnn-separable": Preset(
        "notebook: separable convolutions with batch normalisation on 224 pixels, class weights, equalised",
        {**_SEPARABLE, "augment": "light", "equalize": True},
    ),
    "cnn-separable-plain": Preset(
        "the same without equalisation and augmentation: what falls on images that were compressed otherwise",
        {**_SEPARABLE, "augment": "none"},
    ),
    "vgg16-frozen": Preset("notebook: VGG16 with ImageNet weights, frozen, a new head", {**_VGG, "model": "vgg16"}),
    "vgg19-frozen": Preset("notebook: VGG19 with ImageNet weights, frozen, a new head", {**_VGG, "model": "vgg19"}),
    "vgg16-fine-tuned": Preset(
        "VGG16 with ImageNet weights, frozen for 5 epochs, then its last block trains at a lower rate; augmented",
        {**_VGG, "model": "vgg16", "epochs": 15, "freeze_epochs": 5, "fine_tune_layers": 4, "augment": "light",
         "class_weights": "auto"},
    ),
    "densenet121": Preset(
        "DenseNet-121 (as in CheXNet) with ImageNet weights, fine-tuned, strongly augmented",
        {"model": "densenet121", "weights": "imagenet", "augment": "strong", "epochs": 15, "freeze_epochs": 2,
         "learning_rate": 1e-3, "fine_tune_learning_rate": 1e-4},
    ),
}  # fmt: skip
"""By name."""


def preset_help() -> str:
    """The recipes as lines of a help text."""
    return "\n".join(f"  {name:20}{preset.text}" for name, preset in PRESETS.items())

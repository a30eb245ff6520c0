"""What a training run is: one frozen dataclass, stored in the run as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from cxr.errors import InputError
from cxr.kinds import Choice, Flag, Pairs, Parsed, Real, Text, Whole
from cxr.options import Options, option, options
from tfrecords.images.fit_modes import FITS, LARGEST_SIZE
from trainer.augmentation import STRENGTHS, Augmentation, Strength
from trainer.models import MODELS, check_native, model_options

MixedPrecision = Literal["auto", "float32", "bfloat16", "float16"]
Xla = Literal["auto", "on", "off"]
ClassWeights = Literal["auto", "none", "balanced"]
Schedule = Literal["constant", "cosine", "exponential", "plateau"]
OptimizerName = Literal["adam", "adamw", "sgd", "rmsprop"]
Normalization = Literal["dataset", "image", "none"]
MONITORS = {"val_auc": "max", "val_pr_auc": "max", "val_accuracy": "max", "val_loss": "min"}
"""Metrics that the best epoch may be chosen by, and which way is better."""
SMALLEST_SIZE = 16
"""The smallest side of an image, pixels."""


def _read_size(value: Any) -> int | tuple[int, int] | str:
    """An image size: a side, (height, width), as text `224` or `256x320`, or `native`."""
    if value == "native":
        return "native"
    if isinstance(value, str):
        value = [int(side) for side in value.lower().split("x")]
    sides = tuple(value) if isinstance(value, list | tuple) else (value,)
    whole = all(type(side) is int and SMALLEST_SIZE <= side <= LARGEST_SIZE for side in sides)
    if len(sides) not in (1, 2) or not whole:
        raise ValueError(value)
    return sides[0] if len(sides) == 1 else sides


IMAGE_SIZE = Parsed(
    _read_size,
    f"a side of {SMALLEST_SIZE} to {LARGEST_SIZE} pixels, HEIGHTxWIDTH, or 'native' for each image's own size",
    "N|HxW|native",
)


@options
class TrainConfig(Options):
    """Everything that decides what a run learns, apart from the data.

    Sources: cosine schedule, Loshchilov and Hutter 2017; AdamW, Loshchilov and Hutter 2019. For `model_options` see
    `cxr train --list-models`, for `augment_options` `trainer.augmentation.Augmentation`.
    """

    title: ClassVar[str] = "training configuration"

    model: str = option(
        Choice(tuple(MODELS), "NAME"), "architecture; --list-models shows them", default="cnn-separable", group="model"
    )
    model_options: Mapping[str, Any] = option(
        Pairs(), "of the architecture, e.g. filters=32,64,128 dropout=0.5", default_factory=dict, group="model"
    )
    weights: str = option(
        Text("none, imagenet, or the path of a Keras weights file", "imagenet|PATH|none"), "weights to begin with",
        default="none", group="model",
    )  # fmt: skip
    image_size: int | tuple[int, int] | Literal["native"] = option(
        IMAGE_SIZE, "pixels, or each image's own size", default=224, group="images"
    )
    fit: str = option(Choice(FITS), "how images of another shape come to that size", default="squash", group="images")
    equalize: bool = option(
        Flag(negated=True), "equalise each image's histogram, in the model", default=False, group="images"
    )
    normalize: Normalization = option(
        Choice(get_args(Normalization)),
        "subtract the mean and divide by the standard deviation of the training pixels (dataset), of each image "
        "(image), or not",
        default="dataset", group="images",
    )  # fmt: skip
    augment: Strength = option(
        Choice(tuple(STRENGTHS)), "how much training images are changed", default="light", group="images"
    )
    augment_options: Mapping[str, Any] = option(
        Pairs(), "ranges that differ from that strength's, e.g. rotation_degrees=5", default_factory=dict,
        group="images",
    )  # fmt: skip
    batch_size: int = option(Whole(1), "images a step, over all GPUs", default=32, group="training")
    epochs: int = option(Whole(1), "passes over the training split, all phases together", default=15, group="training")
    optimizer: OptimizerName = option(
        Choice(get_args(OptimizerName)), "sgd has a momentum of 0.9", default="adamw", group="training"
    )
    learning_rate: float = option(
        Real(above=0, metavar="RATE"), "highest learning rate", default=1e-3, group="training"
    )
    schedule: Schedule = option(
        Choice(get_args(Schedule)),
        "cosine and exponential end at 1 %; plateau has no warm-up, and a third after 2 epochs without improvement",
        default="cosine", group="training",
    )  # fmt: skip
    warmup_epochs: float = option(
        Real(0, metavar="N"), "epochs in which the rate rises from 0; part of --epochs", default=0.5, group="training"
    )
    weight_decay: float = option(Real(0), "decoupled weight decay of adamw", default=1e-4, group="training")
    gradient_clip: float = option(
        Real(0, metavar="NORM"), "largest norm of all gradients together; 0 is no limit", default=0.0, group="training"
    )
    label_smoothing: float = option(
        Real(0, 0.999), "share of the label given to all labels alike", default=0.0, group="training"
    )
    ema: float = option(
        Real(0, 0.99999, metavar="MOMENTUM"),
        "momentum of an average of the weights that is validated and kept, e.g. 0.999; 0 is none",
        default=0.0, group="training",
    )  # fmt: skip
    class_weights: ClassWeights = option(
        Choice(get_args(ClassWeights)),
        "auto weighs classes alike in the loss, except for multi-label data; balanced draws them equally often",
        default="auto", group="training",
    )  # fmt: skip
    freeze_epochs: int = option(
        Whole(0), "epochs at the beginning in which pretrained layers are frozen", default=0, group="model"
    )
    fine_tune_learning_rate: float = option(
        Real(above=0, metavar="RATE"), "highest learning rate after those", default=1e-5, group="model"
    )
    fine_tune_layers: int = option(
        Whole(0), "pretrained layers, from the last, that train after those; 0 is all", default=0, group="model"
    )
    monitor: str = option(
        Choice(tuple(MONITORS)), "metric that the best epoch is chosen by", default="val_auc", group="training"
    )
    early_stopping: int = option(
        Whole(0, metavar="PATIENCE"), "epochs without improvement after which training ends; 0 is never", default=0,
        group="training",
    )  # fmt: skip
    mixed_precision: MixedPrecision = option(
        Choice(get_args(MixedPrecision)),
        "auto is bfloat16 on GPUs that have it, float16 with loss scaling on others, float32 on CPUs",
        default="auto", group="machine",
    )  # fmt: skip
    xla: Xla = option(
        Choice(get_args(Xla)), "compile the training step; auto does so on GPUs, JAX always does", default="auto",
        group="machine",
    )  # fmt: skip
    seed: int = option(Whole(0), "seed of weights, order and augmentation", default=0, group="training")

    def check(self) -> None:
        if self.warmup_epochs > self.epochs:
            raise InputError(f"warmup_epochs={self.warmup_epochs:g} is longer than epochs={self.epochs}")
        if self.freeze_epochs > self.epochs:
            raise InputError(f"freeze_epochs={self.freeze_epochs} is more than epochs={self.epochs}, which counts all")
        if self.freeze_epochs and self.weights == "none":
            raise InputError("freeze_epochs freezes pretrained layers; without --weights there are none")
        model_options(self.model, self.model_options)
        if self.native:
            check_native(self.model, self.model_options)
            if self.class_weights == "balanced":
                raise InputError(
                    "class_weights='balanced' draws classes equally often, which needs images of one size; with "
                    "image_size=native take class_weights=auto, which weighs them equally in the loss"
                )
        Augmentation.of(self.augment, **self.augment_options)

    @property
    def native(self) -> bool:
        """Whether each image keeps its own size."""
        return self.image_size == "native"

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels; None where each image keeps its own."""
        if isinstance(self.image_size, str):
            return None
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    @property
    def size_text(self) -> str:
        """The size for people, such as "224 x 224 pixels"."""
        return f"{self.size[0]} x {self.size[1]} pixels" if self.size else "images at their own size"

    def resolved(self) -> TrainConfig:
        """The same with every option of model and augmentation written out, so that no later default changes it."""
        return dataclasses.replace(
            self,
            model_options=dataclasses.asdict(model_options(self.model, self.model_options)),
            augment_options=dataclasses.asdict(Augmentation.of(self.augment, **self.augment_options)),
        )

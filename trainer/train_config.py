"""What a training run is: one frozen dataclass, stored in the run as JSON."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from cxr.errors import InputError
from trainer.augmentation import Augmentation, Strength
from trainer.models import check_model, model_options

MixedPrecision = Literal["auto", "float32", "bfloat16", "float16"]
Xla = Literal["auto", "on", "off"]
ClassWeights = Literal["auto", "none", "balanced"]
Schedule = Literal["constant", "cosine", "exponential", "plateau"]
OptimizerName = Literal["adam", "adamw", "sgd", "rmsprop"]
Normalization = Literal["dataset", "image", "none"]
MONITORS = {"val_auc": "max", "val_pr_auc": "max", "val_accuracy": "max", "val_loss": "min"}
"""What the best checkpoint may be chosen by, and which way is better."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run learns, apart from the data.

    Attributes:
      model: name of an architecture, see `trainer.models.MODELS`.
      model_options: what differs from that architecture's own options.
      weights: `none`, `imagenet`, or the path of a Keras weights file.
      image_size: side in pixels, or (height, width).
      fit: how images of another shape come to that size: `squash`, `pad`, `crop`.
      equalize: equalise each image's histogram, in the model.
      normalize: subtract the mean and divide by the standard deviation of the training pixels (`dataset`), of the
        image (`image`), or not (`none`).
      augment: `none`, `light` or `strong`, see `trainer.augmentation`.
      augment_options: ranges that differ from that strength's own.
      batch_size: images a step, over all GPUs.
      epochs: passes over the training split, all phases together.
      optimizer: `adam`, `adamw`, `sgd` (momentum 0.9) or `rmsprop`.
      learning_rate: the highest.
      schedule: `constant`; `cosine`, to 1 % at the end (Loshchilov and Hutter 2017); `exponential`, to 1 % likewise;
        `plateau`, without warm-up, a third of it after 2 epochs in which validation did not get better.
      warmup_epochs: the rate grows linearly from 0 for so long; part of `epochs`.
      weight_decay: decoupled, of `adamw` (Loshchilov and Hutter 2019).
      gradient_clip: largest norm of all gradients together; 0 is none.
      label_smoothing: share of the label given to all labels alike, in [0, 1).
      ema: momentum of an average of the weights that is what is validated and kept; 0 is none.
      class_weights: `auto` weighs each class the same in the loss, but in a multi-label set; `balanced` draws
        each class equally often instead; `none`.
      freeze_epochs: epochs at the beginning in which pretrained layers stay as they are.
      fine_tune_learning_rate: the highest rate after those.
      fine_tune_layers: pretrained layers, from the last, that train after those; 0 is all.
      monitor: what the best epoch is chosen by.
      early_stopping: epochs without a better `monitor` after which training ends; 0 is never.
      mixed_precision: `auto` is bfloat16 on GPUs that have it, float16 with a loss scale on others, float32 on CPUs.
      xla: compile the training step; `auto` does so on GPUs, and always under JAX, which cannot do without.
      seed: of weights, order and augmentation.
    """

    model: str = "cnn-separable"
    model_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: str = "none"
    image_size: int | tuple[int, int] = 224
    fit: str = "squash"
    equalize: bool = False
    normalize: Normalization = "dataset"
    augment: Strength = "light"
    augment_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batch_size: int = 32
    epochs: int = 15
    optimizer: OptimizerName = "adamw"
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.5
    weight_decay: float = 1e-4
    gradient_clip: float = 0.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    class_weights: ClassWeights = "auto"
    freeze_epochs: int = 0
    fine_tune_learning_rate: float = 1e-5
    fine_tune_layers: int = 0
    monitor: str = "val_auc"
    early_stopping: int = 0
    mixed_precision: MixedPrecision = "auto"
    xla: Xla = "auto"
    seed: int = 0

    def __post_init__(self):
        from tfrecords.images.fit_modes import FITS

        if isinstance(self.image_size, list):
            object.__setattr__(self, "image_size", tuple(self.image_size))
        for name in ("model_options", "augment_options"):  # tuples come back from JSON as lists
            given = getattr(self, name).items()
            options = {option: list(value) if isinstance(value, tuple) else value for option, value in given}
            object.__setattr__(self, name, options)
        sides = self.image_size if isinstance(self.image_size, tuple) else (self.image_size,) * 2
        if len(sides) != 2 or not all(type(side) is int and 16 <= side <= 4096 for side in sides):
            raise InputError(f"image_size={self.image_size!r}: expected a side of 16 to 4096 pixels, or HEIGHTxWIDTH")
        for name, allowed in (
            ("fit", FITS),
            ("normalize", get_args(Normalization)),
            ("optimizer", get_args(OptimizerName)),
            ("schedule", get_args(Schedule)),
            ("class_weights", get_args(ClassWeights)),
            ("mixed_precision", get_args(MixedPrecision)),
            ("xla", get_args(Xla)),
            ("monitor", tuple(MONITORS)),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise InputError(f"{name}={value!r}: expected a whole number, at least {least}")
        for name, (low, high, open_low) in _REAL.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise InputError(f"{name}={value!r}: expected a number")
            if value < low or value > high or (open_low and value == low):
                raise InputError(f"{name}={value!r}: expected {'above' if open_low else 'at least'} {low:g}"
                                 + (f" and at most {high:g}" if math.isfinite(high) else ""))  # fmt: skip
        if not isinstance(self.equalize, bool):
            raise InputError(f"equalize={self.equalize!r}: expected true or false")
        if self.warmup_epochs > self.epochs:
            raise InputError(f"warmup_epochs={self.warmup_epochs:g} is longer than epochs={self.epochs}")
        if self.freeze_epochs > self.epochs:
            raise InputError(f"freeze_epochs={self.freeze_epochs} is more than epochs={self.epochs}, which counts all")
        if self.freeze_epochs and self.weights == "none":
            raise InputError("freeze_epochs freezes pretrained layers; without --weights there are none")
        check_model(self.model, self.model_options)
        Augmentation.of(self.augment, **self.augment_options)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    def resolved(self) -> TrainConfig:
        """The same with every option of model and augmentation written out, so that no later default changes it."""
        return dataclasses.replace(
            self,
            model_options=dataclasses.asdict(model_options(self.model, self.model_options)),
            augment_options=dataclasses.asdict(Augmentation.of(self.augment, **self.augment_options)),
        )

    def to_json(self) -> dict[str, Any]:
        """As values that JSON has."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> TrainConfig:
        """From what `to_json` gave, or a part of it: what is left out has its default.

        Raises:
          InputError: a field is unknown or has a bad value.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
                raise InputError(f"the training configuration has an unknown field '{name}'{hint}")
        return cls(**fields)


_WHOLE = {
    "batch_size": 1, "epochs": 1, "freeze_epochs": 0, "fine_tune_layers": 0, "early_stopping": 0, "seed": 0,
}  # fmt: skip
_REAL = {
    "learning_rate": (0.0, math.inf, True),
    "fine_tune_learning_rate": (0.0, math.inf, True),
    "warmup_epochs": (0.0, math.inf, False),
    "weight_decay": (0.0, math.inf, False),
    "gradient_clip": (0.0, math.inf, False),
    "label_smoothing": (0.0, 0.999, False),
    "ema": (0.0, 0.99999, False),
}
"""Name: lowest, highest, whether the lowest itself is too low."""

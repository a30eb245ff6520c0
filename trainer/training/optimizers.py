"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from trainer.train_config import TrainConfig

FINAL_SHARE = 0.01
"""Of the highest rate, at the end of `cosine` and `exponential`."""
PLATEAU_EPOCHS = 2
PLATEAU_FACTOR = 1 / 3


class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise from 0, then a constant rate, or a fall to 1 % of it by a half cosine or exponentially.

    `rate` is the highest, `shape` is `constant`, `cosine` or `exponential`; the rise is part of `total_steps`.
    """

    def __init__(self, rate: float, shape: str, total_steps: int, warmup_steps: int):
        super().__init__()
        self.rate, self.shape, self.total_steps, self.warmup_steps = rate, shape, total_steps, warmup_steps

    def __call__(self, step):
        """Learning rate of a step, float32, counted from 0."""
        step = ops.cast(step, "float32")
        progress = ops.clip((step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps), 0.0, 1.0)
        share = ops.ones_like(progress)
        if self.shape == "cosine":
            share = FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + ops.cos(math.pi * progress))
        elif self.shape == "exponential":
            share = ops.exp(math.log(FINAL_SHARE) * progress)
        return self.rate * share * ops.minimum((step + 1) / max(1, self.warmup_steps), 1.0)


def build_optimizer(
    config: TrainConfig, rate: float, total_steps: int, warmup_steps: int
) -> keras.optimizers.Optimizer:
    """The optimizer of a stretch of training, whose highest learning rate is `rate`."""
    schedule: Any = rate  # a plain number can be set between epochs, as `plateau` needs
    if config.schedule != "plateau":
        schedule = WarmupSchedule(rate, config.schedule, total_steps, warmup_steps)
    shared = {
        "learning_rate": schedule, "global_clipnorm": config.gradient_clip or None, "use_ema": config.ema > 0,
        "ema_momentum": config.ema or 0.99,
    }  # fmt: skip
    if config.optimizer == "sgd":
        return keras.optimizers.SGD(momentum=0.9, nesterov=True, **shared)
    if config.optimizer == "rmsprop":
        return keras.optimizers.RMSprop(**shared)
    if config.optimizer == "adam":
        return keras.optimizers.Adam(**shared)
    optimizer = keras.optimizers.AdamW(weight_decay=config.weight_decay, **shared)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer

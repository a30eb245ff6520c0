"""The classifier: one Keras model from stored pixels to probabilities, and how it is compiled."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from trainer.augmentation import Augmentation
from trainer.augmentation.layer import ExtendBorders, RandomImageLayer
from trainer.facts import DataFacts
from trainer.models import build_model
from trainer.models.native import ImageSizes
from trainer.models.pixels import Equalize, Normalize, Scale
from trainer.train_config import TrainConfig
from trainer.training import precision
from trainer.training.checkpoint import value_of
from trainer.training.optimizers import build_optimizer


class Classifier(keras.Model):
    """A functional model that counts its training steps and notes the first whose loss is not finite.

    Both are variables, so noticing costs nothing: no step is awaited. The training metrics are kept as attributes
    because their variables then exist from the beginning, and a checkpoint can restore them in mid-epoch.

    Attributes:
      steps: int32, training steps done.
      first_bad_step: int32, number of the first step (from 1) with a loss that is not finite; 0 is none.
    """

    def __init__(self, *args: Any, multi_label: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        count = {"dtype": "int32", "initializer": "zeros", "trainable": False, "aggregation": "only_first_replica"}
        self.steps = self.add_weight(name="steps", shape=(), **count)
        self.first_bad_step = self.add_weight(name="first_bad_step", shape=(), **count)
        self.multi_label = multi_label
        kind = keras.metrics.BinaryAccuracy if multi_label else keras.metrics.SparseCategoricalAccuracy
        self.accuracy = kind(name="accuracy", dtype="float32")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss, and the two counts."""
        loss = super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        if training:
            self.steps.assign_add(1)
            before, step = ops.convert_to_tensor(self.first_bad_step), ops.convert_to_tensor(self.steps)
            bad = ops.logical_and(ops.equal(before, 0), ops.logical_not(ops.isfinite(loss)))
            self.first_bad_step.assign(ops.where(bad, step, before))
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Accuracy of the images as they are, whatever they weigh in the loss."""
        known = ops.logical_not(ops.isnan(y)) if self.multi_label else None
        self.accuracy.update_state(y, y_pred, sample_weight=known)
        return self.get_metrics_result()


class CrossEntropy(keras.losses.Loss):
    """Cross-entropy between labels and probabilities, with label smoothing (Szegedy et al. 2016).

    Labels are int [batch], or 0 and 1 [batch, labels] where an image may have any number of them, NaN where that is not
    known; the loss of those is the mean over the known labels, and 0 without any. Probabilities are
    float32 [batch, labels]; they are kept 1e-7 away from 0 and 1.
    """

    def __init__(self, labels: int, multi_label: bool, smoothing: float = 0.0):
        super().__init__(name="cross_entropy", dtype="float32")
        self.labels, self.multi_label, self.smoothing = labels, multi_label, smoothing

    def call(self, y_true, y_pred):
        if self.multi_label:
            known = ops.logical_not(ops.isnan(y_true))
            truth = ops.where(known, y_true, 0.0) * (1 - self.smoothing) + 0.5 * self.smoothing
            losses = ops.binary_crossentropy(truth, y_pred) * ops.cast(known, y_pred.dtype)
            return ops.sum(losses, axis=-1) / ops.maximum(ops.sum(ops.cast(known, y_pred.dtype), axis=-1), 1)
        wanted = ops.one_hot(ops.cast(ops.reshape(y_true, (-1,)), "int32"), self.labels, dtype="float32")
        return keras.losses.categorical_crossentropy(wanted, y_pred, label_smoothing=self.smoothing)


def build_classifier(config: TrainConfig, facts: DataFacts, load_weights: bool = True) -> Classifier:
    """A new model: pixels as a stream gives them, uint8 or uint16 [batch, height, width, channels], to probabilities
    float32 [batch, labels], which sum to 1 unless an image may have several labels. At native size the model takes
    `{"image": pixels, "mask": bool [batch, height, width, 1]}`, where images lie at the top left of their mask.

    Initial weights, dropout and augmentation follow from `config.seed`. Pretrained weights, where the configuration
    names any, are loaded; with `load_weights=False` the model is the same, but waits for weights of its own.

    Raises:
      InputError: the weights cannot be had or do not fit.
    """
    keras.utils.set_random_seed(config.seed)
    height, width = config.size or (None, None)
    with precision.policy(config.mixed_precision):
        images = keras.Input((height, width, facts.channels), dtype=f"uint{facts.bit_depth}", name="image")
        inputs, sizes = images, None
        if config.native:
            inputs = {"image": images, "mask": keras.Input((None, None, 1), dtype="bool", name="mask")}
            sizes = ImageSizes(name="sizes")(inputs["mask"])
        pixels = Scale(facts.bit_depth, name="scale")(images)
        augmentation = Augmentation.of(config.augment, **config.augment_options).layers(config.seed)
        if config.native and augmentation:
            pixels = ExtendBorders(name="extend_borders")(pixels, sizes)
        for layer in augmentation:
            pixels = layer(pixels, sizes)
        if config.equalize:
            pixels = Equalize(name="equalize")(pixels, sizes)
        if config.weights == "none":  # a pretrained model has a normalisation of its own
            pixels = Normalize(config.normalize, facts.pixel_mean, facts.pixel_std, name="normalize")(pixels, sizes)
        probabilities = build_model(
            config.model, pixels, len(facts.labels), multi_label=facts.multi_label, options=config.model_options,
            weights=config.weights if load_weights or config.weights == "none" else "later", sizes=sizes,
        )  # fmt: skip
        name = config.model.replace("-", "_")
        return Classifier(inputs, probabilities, multi_label=facts.multi_label, name=name)


def compile_classifier(
    model: Classifier, config: TrainConfig, facts: DataFacts, steps_per_epoch: int, epochs: int, rate: float,
    warmup_epochs: float,
) -> None:  # fmt: skip
    """Compiles the model for a stretch of training of so many epochs, with an optimizer that has done no step."""
    optimizer = build_optimizer(
        config, rate, total_steps=steps_per_epoch * epochs, warmup_steps=math.ceil(steps_per_epoch * warmup_epochs)
    )
    if model.dtype_policy.compute_dtype == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer=optimizer,
        loss=CrossEntropy(len(facts.labels), facts.multi_label, config.label_smoothing),
        jit_compile=precision.use_xla(config.xla),
        auto_scale_loss=False,  # done above, so that the loss scale can be logged
    )
    optimizer.build(model.trainable_variables)


def augmented(model: Classifier, batch: Any) -> Any:
    """What the backbone is shown in training, before normalisation: float32 [batch, height, width, channels] in [0, 1].

    The random generators are left as they were. The batch is uint8 or uint16 [batch, height, width, channels]; at
    native size with its mask.
    """
    last = [layer for layer in model.layers if isinstance(layer, (Scale, RandomImageLayer, Equalize))]
    shown = keras.Model(model.input, last[-1].output)
    before = [value_of(variable) for variable in shown.variables]
    pixels = ops.convert_to_numpy(shown(batch, training=True))
    for variable, value in zip(shown.variables, before, strict=True):
        variable.assign(value)
    return pixels

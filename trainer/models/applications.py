"""Published architectures as `keras.applications` has them, from scratch or with pretrained weights."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
from keras import KerasTensor, layers

from cxr.errors import InputError
from trainer.models.layers import KEEPS_AVERAGES, MOMENTUM, leaf_layers
from trainer.models.model_options import ApplicationOptions
from trainer.models.weights import load_weights

LATER = "later"
"""Weights of a pretrained model that are loaded afterwards, from a run's checkpoint."""

SMALLEST = 32
"""Pixels; `keras.applications` takes no smaller image."""

NETWORK_SECONDS = 8.0
"""Without an answer for so long, a download has failed."""


@dataclasses.dataclass(frozen=True)
class Application:
    """One of `keras.applications`.

    Attributes:
      builder: its name there.
      file: of its ImageNet weights without the classifier, below the address and in Keras's cache.
      caffe: it was trained on pixels 0 to 255 in the order blue, green, red, with the mean subtracted; otherwise on
        [0, 1] with mean and standard deviation normalised, which Keras names `torch`.
      preprocesses: Keras builds that normalisation into it unless told not to.
    """

    builder: str
    file: str
    caffe: bool = False
    preprocesses: bool = False

    @property
    def address(self) -> str:
        return f"https://storage.googleapis.com/tensorflow/keras-applications/{self.file}"


APPLICATIONS = {
    "resnet50": Application("ResNet50", "resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", caffe=True),
    "densenet121": Application("DenseNet121", "densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5"),
    "efficientnetv2-b0": Application(
        "EfficientNetV2B0", "efficientnet_v2/efficientnetv2-b0_notop.h5", preprocesses=True
    ),
    "convnext-tiny": Application("ConvNeXtTiny", "convnext/convnext_tiny_notop.h5", preprocesses=True),
    "vgg16": Application("VGG16", "vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", caffe=True),
    "vgg19": Application("VGG19", "vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", caffe=True),
}


def build_application(
    name: str, inputs: KerasTensor, options: ApplicationOptions, weights: str, pixels: str
) -> KerasTensor:
    """An architecture from pixels to features [batch, features].

    With pretrained weights the pixels are first brought to what these were trained on: three channels, and the
    normalisation of `keras.applications.*.preprocess_input`, in float32.

    Args:
      inputs: [batch, height, width, 1 or 3]; in [0, 1] with pretrained weights, normalised without.
      weights: `none`, `imagenet` or a path.
      pixels: name for the layer in front of the nested model.

    Raises:
      InputError: images below 32 pixels, or weights that do not fit.
    """
    if any(side is not None and side < SMALLEST for side in inputs.shape[1:3]):
        raise InputError(
            f"model '{name}': images of {inputs.shape[1]} x {inputs.shape[2]} pixels are too small; "
            f"expected at least {SMALLEST} a side"
        )
    pretrained = weights != "none"
    base = load_application(name, (*inputs.shape[1:3], 3) if pretrained else inputs.shape[1:], options.final, weights)
    for layer in leaf_layers(base):
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = KEEPS_AVERAGES if pretrained else MOMENTUM
            # Not base(x, training=False), the usual way: Keras 3.15 overrides it when the model around it is trained.
            layer.trainable = not pretrained
    x = _preprocess(inputs, APPLICATIONS[name].caffe) if pretrained else inputs
    return base(layers.Identity(name=pixels)(x))


def load_application(name: str, shape: tuple[int | None, ...], final: str, weights: str) -> keras.Model:
    """The architecture without its classifier, with weights: `none`, `imagenet`, a path, or `LATER`.

    The shape of the images is (height, width, channels), sides None where they vary; `final` is `average` or `max`
    pooling. Raises InputError where the weights cannot be had, or do not fit.
    """
    application = APPLICATIONS[name]
    arguments = {"include_top": False, "input_shape": shape, "pooling": "avg" if final == "average" else "max"}
    if application.preprocesses:
        arguments["include_preprocessing"] = False
    builder = getattr(keras.applications, application.builder)
    if weights == "imagenet":
        with _download_errors(name, application):
            return builder(weights="imagenet", **arguments)
    base = builder(weights=None, **arguments)
    if weights not in ("none", LATER):
        load_weights(name, base, Path(weights))
    return base


def _preprocess(x: KerasTensor, caffe: bool) -> KerasTensor:
    """Pixels in [0, 1], [batch, height, width, 1 or 3], as ImageNet's were in training: float32, three channels."""
    if x.shape[-1] == 1:
        x = layers.Concatenate(dtype="float32")([x, x, x])
    elif caffe:
        x = keras.ops.flip(x, axis=-1)
    if caffe:
        mean, deviation = [103.939 / 255, 116.779 / 255, 123.68 / 255], [1 / 255] * 3
    else:
        mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return layers.Normalization(mean=mean, variance=[value**2 for value in deviation], dtype="float32")(x)


@contextmanager
def _download_errors(name: str, application: Application) -> Iterator[None]:
    """Makes a failed download of Keras's an InputError, and one that hangs a failed one."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_SECONDS)
    try:
        yield
    except Exception as error:  # what Keras raises when a download fails is no subclass
        if not isinstance(error, OSError) and not str(error).startswith("URL fetch failure"):
            raise
        folder = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
        raise InputError(
            f"the ImageNet weights of '{name}' are not here and cannot be fetched from {application.address}: "
            f"{str(error).rpartition(' -- ')[2]}. Fetch that file elsewhere; put it in {folder}, or name it with "
            f"--weights PATH"
        ) from error
    finally:
        socket.setdefaulttimeout(before)

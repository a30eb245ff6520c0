"""The models: what there is, and how one is put together. Keras is loaded when one is built, not before.

A model is a backbone, one nested Keras model from pixels to features, and a head of dense layers:

    pixels -> [repeat to 3 channels, ImageNet's normalisation] -> backbone -> dense layers -> dropout -> labels
               \\_________ with pretrained weights _________/
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cxr.errors import InputError
from cxr.kinds import Choice
from cxr.options import checked
from trainer.models.model_options import (
    ApplicationOptions,
    ConvOptions,
    MlpOptions,
    ModelOptions,
    ResNetOptions,
    XceptionOptions,
    change_options,
)

if TYPE_CHECKING:
    from keras import KerasTensor


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """One of the models.

    Attributes:
      description: one line.
      options: its own; all of them can be changed.
      image_size: side in pixels that suits it.
      image_sizes: sides that a search tries, for a model with a weight for each pixel; empty if any will do.
      settled: hyperparameters of its family that a search leaves as they are, see `trainer.models.hyperparameters`.
    """

    description: str
    options: ModelOptions
    image_size: int = 224
    image_sizes: tuple[int, ...] = ()
    settled: tuple[str, ...] = ()

    @property
    def pretrained(self) -> bool:
        """Whether it takes pretrained weights."""
        return isinstance(self.options, ApplicationOptions)


# cnn-separable averages each channel over the image instead of flattening: its 8 thousand weights between the last
# block and the dense layer would be 1.6 million at 224 pixels and 34 million at 1024. Its first two blocks
# convolve once: at their resolution a second time costs more than the rest of the model.
_FLAT_SIZES = (48, 64, 96, 128)
MODELS = {
    "mlp": ModelSpec("two dense layers on the pixels, with dropout", MlpOptions(dense=(512, 256)), 64, _FLAT_SIZES),
    "mlp-tanh": ModelSpec(
        "one tanh layer on the pixels; a baseline, for plain SGD",
        MlpOptions(dense=(128,), activation="tanh", dropout=0.0), 64, _FLAT_SIZES,
    ),
    "cnn3": ModelSpec(
        "three plain convolutions with max pooling, flattened",
        ConvOptions(normalization="none", block_dropout=0.2, final="flatten", dense=(128,)), 128, _FLAT_SIZES,
        settled=("width", "blocks", "growth", "block", "plain_blocks", "final"),
    ),
    "cnn-separable": ModelSpec(
        "plain, then separable convolutions with batch normalisation; small and quick",
        ConvOptions(
            filters=(32, 32, 64, 64), convolutions=(1, 1, 2), block=("plain", "plain", "separable"), dense=(128,)
        ),
    ),
    "xception-small": ModelSpec("residual separable convolutions (Chollet 2017), small", XceptionOptions()),
    "resnet18": ModelSpec("ResNet-18 (He et al. 2015)", ResNetOptions()),
    "resnet50": ModelSpec("ResNet-50 (He et al. 2015)", ApplicationOptions()),
    "densenet121": ModelSpec("DenseNet-121 (Huang et al. 2017), as CheXNet", ApplicationOptions()),
    "efficientnetv2-b0": ModelSpec("EfficientNetV2-B0 (Tan and Le 2021)", ApplicationOptions()),
    "convnext-tiny": ModelSpec("ConvNeXt-Tiny (Liu et al. 2022)", ApplicationOptions()),
    "vgg16": ModelSpec("VGG-16 (Simonyan and Zisserman 2014), averaged, dense 256", ApplicationOptions(dense=(256,))),
    "vgg19": ModelSpec("VGG-19 (Simonyan and Zisserman 2014), averaged, dense 256", ApplicationOptions(dense=(256,))),
}  # fmt: skip


def model_options(name: str, changes: Mapping[str, Any] | None = None) -> ModelOptions:
    """A model's options with some changed, by values or by text as on the command line.

    Raises InputError for an unknown model or option, or a value that the option cannot have.
    """
    checked("model", Choice(tuple(MODELS)), name)
    return change_options(name, MODELS[name].options, changes or {})


def check_native(name: str, options: Mapping[str, Any] | None = None) -> None:
    """Raises InputError unless the model, with these options, can take images at their own size."""
    chosen = model_options(name, options)
    if chosen.halvings is not None:
        return
    able = ", ".join(key for key, spec in MODELS.items() if spec.options.halvings is not None)
    also = ", ".join(key for key, spec in MODELS.items() if isinstance(spec.options, ConvOptions) and key not in able)
    final = f" final={chosen.final}" if isinstance(chosen, ConvOptions) else ""
    raise InputError(
        f"image_size=native: model '{name}'{final} takes images of one size only. Models that take images at their "
        f"own size: {able}; {also} with --model-options final=average or final=max"
    )


def check_weights(name: str, weights: str) -> None:
    """Makes sure that a model can be given these weights: loads them, from ImageNet's download too.

    Weights are `none`, `imagenet`, or the path of a Keras weights file. Raises InputError where the model takes none;
    the file is missing, damaged or of another model; or there is no network.
    """
    model_options(name)
    if weights == "none":
        return
    if not MODELS[name].pretrained:
        takers = ", ".join(key for key, spec in MODELS.items() if spec.pretrained)
        raise InputError(f"model '{name}' takes no pretrained weights; received '{weights}'. These take them: {takers}")
    from trainer.models.applications import load_application

    load_application(name, (None, None, 3), "average", weights)


def build_backbone(
    name: str, inputs: KerasTensor, options: Mapping[str, Any] | None = None, weights: str = "none",
    sizes: KerasTensor | None = None,
) -> KerasTensor:  # fmt: skip
    """A model from pixels to features.

    Args:
      inputs: float [batch, height, width, 1 or 3]: normalised without weights; in [0, 1] with pretrained ones, as the
        model then has a normalisation of its own.
      options: what differs from the model's own options.
      weights: `none` for random ones, `imagenet`, the path of a Keras weights file, or `later` for the model that
        takes such weights with random ones in their place. Pretrained batch
        normalisation always runs in inference mode: it keeps all that it came with, also in fine-tuning.
      sizes: int32 [batch, 2], height and width of the image at the top left of each input; None where images fill it.

    Returns:
      Features [batch, features], of the dtype that layers compute in.

    Raises:
      InputError: an unknown model or option; images that it cannot take; weights that do not fit.
    """
    chosen = model_options(name, options)
    if sizes is not None:
        check_native(name, options)
    if weights != "none" and not MODELS[name].pretrained:
        check_weights(name, weights)
    from trainer.models.heads import build_dense, wrap_backbone

    return build_dense(wrap_backbone(name, inputs, chosen, weights, sizes), chosen)


def build_model(
    name: str, inputs: KerasTensor, labels: int, *, multi_label: bool = False,
    options: Mapping[str, Any] | None = None, weights: str = "none", sizes: KerasTensor | None = None,
) -> KerasTensor:  # fmt: skip
    """A model from pixels to probabilities: `build_backbone`, then `trainer.models.heads.build_labels`.

    Args:
      inputs, options, weights, sizes: as for `build_backbone`.
      labels: how many, at least 2, or 1 where images may have several labels.
      multi_label: each label has a probability of its own; otherwise they sum to 1.

    Returns:
      Probabilities, float32 [batch, labels], whatever the mixed-precision policy.

    Raises:
      InputError: as `build_backbone`.
    """
    from trainer.models.heads import build_labels

    features = build_backbone(name, inputs, options, weights, sizes)
    return build_labels(features, labels, multi_label, model_options(name, options).dropout)

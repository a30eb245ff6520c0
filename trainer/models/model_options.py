"""What each family of models can be asked for.

Nothing here loads Keras.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cxr.errors import InputError
from cxr.kinds import Choice, Kind, Real, Several, Whole, plain_sequence
from cxr.options import Options, check_names, checked, fields_of, option, options

ACTIVATIONS = ("relu", "gelu", "silu", "elu", "leaky_relu", "tanh")
BLOCKS = ("plain", "separable", "residual")
POOLS = ("max", "average", "stride")
NORMALIZATIONS = ("batch", "layer", "group", "none")


@options
class ModelOptions(Options):
    """Options that every model has: the layers between its features and the labels."""

    dense: tuple[int, ...] = option(
        Several(Whole(1, 8192), 0, 4), "widths of dense layers before the labels", default=()
    )
    dropout: float = option(Real(0, 0.95), "share of features dropped after each, and before the labels", default=0.3)
    activation: str = option(Choice(ACTIVATIONS), "of each layer but the last", default="relu")

    @property
    def halvings(self) -> int | None:
        """How often the resolution is halved; None for a model that cannot take images at their own size."""
        return None


@options
class MlpOptions(ModelOptions):
    """Pixels straight into dense layers."""


@options
class ConvOptions(ModelOptions):
    """Blocks of convolutions, each at half the resolution of the one before; see `trainer.models.conv`."""

    filters: tuple[int, ...] = option(Several(Whole(1, 2048), 1, 10), "channels of each block", default=(32, 64, 128))
    convolutions: tuple[int, ...] = option(
        Several(Whole(1, 6), 1, 10), "convolutions of each block; the last holds for the rest", default=(1,)
    )
    kernel: int = option(Whole(1, 15), "side of the convolutions, pixels", default=3)
    block: tuple[str, ...] = option(
        Several(Choice(BLOCKS), 1, 10), "kind of each block; the last holds for the rest", default=("plain",)
    )
    pool: str = option(Choice(POOLS), "how a block halves the resolution", default="max")
    normalization: str = option(Choice(NORMALIZATIONS), "after each convolution", default="batch")
    block_dropout: float = option(Real(0, 0.95), "share of values dropped after each block", default=0.0)
    final: str = option(Choice(("average", "max", "flatten")), "from the last block to features", default="average")

    def check(self) -> None:
        for name in ("convolutions", "block"):
            given = getattr(self, name)
            if len(given) > len(self.filters):
                raise InputError(
                    f"model option {name}={','.join(map(str, given))} is for {len(given)} blocks, and "
                    f"filters={','.join(map(str, self.filters))} for {len(self.filters)}; give at most one for each"
                )

    @property
    def blocks(self) -> list[tuple[int, str, int]]:
        """(channels, kind, convolutions) of each block."""
        count = len(self.filters)
        kinds = self.block + self.block[-1:] * (count - len(self.block))
        convolutions = self.convolutions + self.convolutions[-1:] * (count - len(self.convolutions))
        return list(zip(self.filters, kinds, convolutions, strict=True))

    @property
    def halvings(self) -> int | None:
        return None if self.final == "flatten" else len(self.filters)

    def with_filters(self, filters: Any) -> ConvOptions:
        """With as many blocks as there are filters; what is given for blocks that there are no more is dropped."""
        count = len(ConvOptions(filters=filters).filters)
        return dataclasses.replace(
            self, filters=filters, block=self.block[:count], convolutions=self.convolutions[:count]
        )


@options
class XceptionOptions(ModelOptions):
    """Residual blocks of separable convolutions; see `trainer.models.conv`."""

    filters: tuple[int, ...] = option(Several(Whole(8, 2048), 1, 8), "channels of each block", default=(128, 256, 384))
    convolutions: int = option(Whole(1, 6), "separable convolutions a block", default=2)
    kernel: int = option(Whole(1, 15), "side of the convolutions, pixels", default=3)
    normalization: str = option(Choice(NORMALIZATIONS), "after each convolution", default="batch")
    final: str = option(Choice(("average", "max")), "from the last block to features", default="average")

    @property
    def halvings(self) -> int:
        return len(self.filters) + 1


@options
class ResNetOptions(ModelOptions):
    """Stages of residual blocks; see `trainer.models.resnet`."""

    depths: tuple[int, ...] = option(Several(Whole(1, 50), 1, 6), "blocks of each stage", default=(2, 2, 2, 2))
    filters: int = option(Whole(8, 512), "channels of the first stage, doubled at each stage", default=64)
    normalization: str = option(Choice(NORMALIZATIONS), "after each convolution", default="batch")
    final: str = option(Choice(("average", "max")), "from the last stage to features", default="average")

    @property
    def halvings(self) -> int:
        return len(self.depths) + 1


@options
class ApplicationOptions(ModelOptions):
    """A published architecture as `keras.applications` has it; see `trainer.models.applications`."""

    final: str = option(Choice(("average", "max")), "from the last block to features", default="average")


def change_options(model: str, options: ModelOptions, changes: Mapping[str, Any]) -> ModelOptions:
    """The options with some changed, by values or by text as on the command line.

    Raises InputError for an option that the model does not have, or a value that it cannot have.
    """
    known = fields_of(type(options))
    check_names(changes, known, f"model '{model}'", "option")
    changes = {name: _read(name, known[name].kind, value) for name, value in changes.items()}
    if "filters" in changes and isinstance(options, ConvOptions):
        options = options.with_filters(changes["filters"])
    return dataclasses.replace(options, **changes)


def _read(name: str, kind: Kind, value: Any) -> Any:
    """A value of an option, also from text, except where the option is text itself."""
    if isinstance(value, str) and not isinstance(kind, Choice):
        try:
            return kind.parse(value)
        except (ValueError, TypeError, OverflowError):
            raise InputError(f"{name}={value!r}: expected {kind}") from None
    return checked(name, kind, value)


def describe_options(options: ModelOptions) -> list[tuple[str, str, str]]:
    """Rows of (option, its value here, what it is and may be), for help and documents."""
    rows = []
    for name, said in fields_of(type(options)).items():
        value = getattr(options, name)
        text = plain_sequence(value) if isinstance(value, tuple) else str(value)
        rows.append((name, text, f"{said.help}: {said.kind}"))
    return rows

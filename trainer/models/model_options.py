"""What each family of models can be asked for.

Each option says what it may be, so that one place checks it, reads it from the command line (`filters=32,64`),
describes it, and tells a search what there is to vary. Nothing here loads Keras.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, Protocol

from cxr.errors import InputError

ACTIVATIONS = ("relu", "gelu", "silu", "elu", "leaky_relu", "tanh")
BLOCKS = ("plain", "separable", "residual")
POOLS = ("max", "average", "stride")
NORMALIZATIONS = ("batch", "layer", "group", "none")


class Kind(Protocol):
    """The values that an option may have. `str(kind)` completes "expected ..."."""

    def read(self, value: Any) -> Any:
        """The value, also from text; raises ValueError where it is none of this kind."""


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def read(self, value: Any) -> int:
        number = int(value) if isinstance(value, str) else value
        if not hasattr(number, "__index__") or isinstance(number, bool) or not self.low <= number <= self.high:
            raise ValueError
        return int(number)


@dataclasses.dataclass(frozen=True)
class Real:
    """A number from `low` to `high`."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    def read(self, value: Any) -> float:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if math.isnan(number) or not self.low <= number <= self.high:
            raise ValueError
        return number


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few names."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return "one of " + ", ".join(self.names)

    def read(self, value: Any) -> str:
        if value not in self.names:
            raise ValueError
        return str(value)


@dataclasses.dataclass(frozen=True)
class Several:
    """From `least` to `most` values of one kind; as text joined by commas, or `none`."""

    of: Kind
    least: int
    most: int

    def __str__(self) -> str:
        return f"{self.least} to {self.most} values, each {self.of}" + (", or none" if self.least == 0 else "")

    def read(self, value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            value = () if value == "none" and self.least == 0 else value.split(",")
        if not isinstance(value, (list, tuple)):
            value = (value,)
        if not self.least <= len(value) <= self.most:
            raise ValueError
        return tuple(self.of.read(item) for item in value)


def _option(default: Any, kind: Kind, about: str) -> Any:
    return dataclasses.field(default=default, metadata={"kind": kind, "about": about})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options that every model has: the layers between its features and the labels.

    Raises:
      InputError: a value is not what its option may be.
    """

    dense: tuple[int, ...] = _option((), Several(Whole(1, 8192), 0, 4), "widths of dense layers before the labels")
    dropout: float = _option(0.3, Real(0, 0.95), "share of features dropped after each, and before the labels")
    activation: str = _option("relu", Choice(ACTIVATIONS), "of each layer but the last")

    def __post_init__(self):
        for field in dataclasses.fields(self):
            kind, value = field.metadata["kind"], getattr(self, field.name)
            try:
                object.__setattr__(self, field.name, kind.read(value))
            except (ValueError, TypeError, OverflowError):
                raise InputError(f"model option {field.name}={value!r}: expected {kind}") from None

    @property
    def halvings(self) -> int | None:
        """How often the resolution is halved; None for a model that cannot take images at their own size."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MlpOptions(ModelOptions):
    """Pixels straight into dense layers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvOptions(ModelOptions):
    """Blocks of convolutions, each at half the resolution of the one before; see `trainer.models.conv`."""

    filters: tuple[int, ...] = _option((32, 64, 128), Several(Whole(1, 2048), 1, 10), "channels of each block")
    convolutions: tuple[int, ...] = _option(
        (1,), Several(Whole(1, 6), 1, 10), "convolutions of each block; the last holds for the rest"
    )
    kernel: int = _option(3, Whole(1, 15), "side of the convolutions, pixels")
    block: tuple[str, ...] = _option(
        ("plain",), Several(Choice(BLOCKS), 1, 10), "kind of each block; the last holds for the rest"
    )
    pool: str = _option("max", Choice(POOLS), "how a block halves the resolution")
    normalization: str = _option("batch", Choice(NORMALIZATIONS), "after each convolution")
    block_dropout: float = _option(0.0, Real(0, 0.95), "share of values dropped after each block")
    final: str = _option("average", Choice(("average", "max", "flatten")), "from the last block to features")

    def __post_init__(self):
        super().__post_init__()
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class XceptionOptions(ModelOptions):
    """Residual blocks of separable convolutions; see `trainer.models.conv`."""

    filters: tuple[int, ...] = _option((128, 256, 384), Several(Whole(8, 2048), 1, 8), "channels of each block")
    convolutions: int = _option(2, Whole(1, 6), "separable convolutions a block")
    kernel: int = _option(3, Whole(1, 15), "side of the convolutions, pixels")
    normalization: str = _option("batch", Choice(NORMALIZATIONS), "after each convolution")
    final: str = _option("average", Choice(("average", "max")), "from the last block to features")

    @property
    def halvings(self) -> int:
        return len(self.filters) + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetOptions(ModelOptions):
    """Stages of residual blocks; see `trainer.models.resnet`."""

    depths: tuple[int, ...] = _option((2, 2, 2, 2), Several(Whole(1, 50), 1, 6), "blocks of each stage")
    filters: int = _option(64, Whole(8, 512), "channels of the first stage, doubled at each stage")
    normalization: str = _option("batch", Choice(NORMALIZATIONS), "after each convolution")
    final: str = _option("average", Choice(("average", "max")), "from the last stage to features")

    @property
    def halvings(self) -> int:
        return len(self.depths) + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApplicationOptions(ModelOptions):
    """A published architecture as `keras.applications` has it; see `trainer.models.applications`."""

    final: str = _option("average", Choice(("average", "max")), "from the last block to features")


def change_options(model: str, options: ModelOptions, changes: Mapping[str, Any]) -> ModelOptions:
    """The options with some changed, by values or by text as on the command line.

    Raises:
      InputError: an option that the model does not have, or a value that it cannot have.
    """
    known = [field.name for field in dataclasses.fields(options)]
    for name in changes:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise InputError(f"model '{model}' has no option '{name}'. {hint}It has {', '.join(sorted(known))}")
    if "filters" in changes and isinstance(options, ConvOptions):
        options = options.with_filters(changes["filters"])
    return dataclasses.replace(options, **changes)


def describe_options(options: ModelOptions) -> list[tuple[str, str, str]]:
    """Rows of (option, its value here, what it is and may be), for help and documents."""
    rows = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        text = (",".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
        rows.append((field.name, text, f"{field.metadata['about']}: {field.metadata['kind']}"))
    return rows

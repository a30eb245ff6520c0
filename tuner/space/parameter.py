"""One hyperparameter: what it may be, when it matters, and how its values are read from options and files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from cxr.errors import InputError
from cxr.kinds import Flag, Parsed, Real, Text
from cxr.options import Options, check_names, option, options
from tuner.space.translation import MEANINGS, plain

When = tuple[tuple[str, tuple[Any, ...]], ...]


def _number(value: Any) -> float:
    """A finite number, whole where it was."""
    Real().check(value)
    return value


def _values(values: Any) -> tuple[Any, ...]:
    kinds = {str if isinstance(v, str) else bool if isinstance(v, bool) else float for v in values}
    known = isinstance(values, list | tuple) and all(isinstance(value, str | int | float) for value in values)
    if not known or len(kinds) > 1 or len(set(values)) < len(values):
        raise ValueError(values)
    if any(isinstance(value, float) for value in values):  # KerasTuner takes no mixture of both
        return tuple(map(float, values))
    return tuple(values)


def _when(conditions: Any) -> When:
    pairs = list(conditions.items() if isinstance(conditions, Mapping) else conditions)
    if not all(isinstance(values, list | tuple) for _, values in pairs):
        raise ValueError(conditions)
    return tuple((name, tuple(values)) for name, values in pairs)


_NUMBER = Parsed(_number, "a number")


@options
class Parameter(Options):
    """One hyperparameter: a choice of values, or a range.

    Raises:
      InputError: it has neither values nor a range, or the range is empty.
    """

    title: ClassVar[str] = "hyperparameter"

    name: str = option(Text(), "of `tuner.space.translation.MEANINGS`, or a scalar field of `TrainConfig`")
    about: str = option(Text(may_be_empty=True), "a line for people", default="")
    values: tuple[Any, ...] = option(
        Parsed(_values, "a list of different values: all texts, all numbers, or all true and false"),
        "to choose from; at least two, or one under a condition. Or else a range:", default=(),
    )  # fmt: skip
    low: Any = option(_NUMBER, "its lowest value; whole numbers if both ends are", default=None)
    high: Any = option(_NUMBER, "its highest value", default=None)
    log: bool = option(Flag(), "the range is sampled by its logarithm", default=False)
    step: float | None = option(
        _NUMBER, "of a range that is not logarithmic", default=None, unset="any value in the range"
    )
    when: When = option(
        Parsed(_when, "an object of names and lists"),
        "conditions, all of which must hold: another parameter's name, and its values. A parameter's conditions begin "
        "with those of each parameter that it depends on", default=(),
    )  # fmt: skip

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except InputError as error:
            raise InputError(f"hyperparameter '{self.name}': {error}") from error

    def check(self) -> None:
        low, high, step = self.low, self.high, self.step
        if self.values:
            if low is not None or high is not None:
                raise InputError("it has values and a range; give one of them")
            if len(self.values) < 2 and not self.when:
                raise InputError(f"expected at least two different values, received {self.shown}")
            return
        if low is None or high is None or low >= high:
            raise InputError(f"expected values, or numbers low < high; received low={low}, high={high}")
        if self.log and low <= 0:
            raise InputError(f"a logarithmic range begins above 0; received low={low}")
        if self.log and step is not None:
            raise InputError(f"a logarithmic range has no step; received {step}. List its values instead")
        if step is not None and not 0 < step <= high - low:
            raise InputError(f"expected a step in (0, {high - low:g}], received {step}")
        if step is not None and self.whole and step != int(step):
            raise InputError(f"expected a whole step in a range of whole numbers, received {step}")

    @property
    def whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return not self.values and isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def count(self) -> int | None:
        """Number of its values; None for a continuous range."""
        if self.values:
            return len(self.values)
        if self.log or (self.step is None and not self.whole):
            return None
        return math.floor((self.high - self.low) / (self.step or 1) + 1e-9) + 1

    @property
    def samples(self) -> tuple[Any, ...]:
        """All its values, or the ends of its range."""
        return self.values or (self.low, self.high)

    @property
    def examples(self) -> tuple[Any, ...]:
        """`samples`, and a value from the inside of a range."""
        if self.values:
            return self.values
        middle = self.low + (self.high - self.low) / 2
        return (*self.samples, math.floor(middle) if self.whole else middle)

    def matters(self, values: Mapping[str, Any]) -> bool:
        """Whether its conditions hold where other hyperparameters have these values."""
        return all(values.get(name) in allowed for name, allowed in self.when)

    @property
    def conditions(self) -> str:
        """When it matters, as text; empty for always."""
        return "; ".join(f"{name}: {', '.join(map(plain, values))}" for name, values in self.when)

    @property
    def shown(self) -> str:
        """Its values or its range, as text."""
        if self.values:
            return ", ".join(plain(value) for value in self.values)
        step = f", step {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{', log' if self.log else ''}{step}"


def value_of(variants: Sequence[Parameter], value: Any) -> Any:
    """A value as parameters of one name have it: what reads the same is the same."""
    known = [each for parameter in variants for each in parameter.values]
    for same in known:
        if value == same and isinstance(value, bool) == isinstance(same, bool):
            return same
    return next((same for same in known if plain(same) == str(value).lower()), value)


def narrowed(parameter: Parameter, wanted: Any, variants: Sequence[Parameter]) -> Parameter | tuple[Any, ...]:
    """The parameter with another range, or the values that it has left.

    Args:
      parameter: one of the variants.
      wanted: values as a list or as text with commas, or a range as a mapping or as text, `LOW..HIGH`.
      variants: all parameters of that name.

    Raises:
      InputError: something that none of the variants can be, or only others than this one.
    """
    if isinstance(wanted, str) and ".." in wanted and not parameter.values:
        wanted = dict(zip(("low", "high"), wanted.split("..", 1), strict=True))
    if isinstance(wanted, Mapping):
        check_names(wanted, ("low", "high", "log", "step"), f"a range of '{parameter.name}'", "option")
        low, high = (_number_of(parameter, wanted.get(name, getattr(parameter, name))) for name in ("low", "high"))
        log = wanted.get("log", parameter.log)
        step = wanted.get("step", None if log else parameter.step)
        return Parameter(parameter.name, parameter.about, (), low, high, log, step, parameter.when)
    texts = wanted.split(",") if isinstance(wanted, str) else wanted if isinstance(wanted, (list, tuple)) else [wanted]
    if not parameter.values:
        return tuple(_number_of(parameter, text) for text in texts)
    values = [value_of(variants, text) for text in texts]
    for value, text in zip(values, texts, strict=True):
        if not any(_among(value, variant) for variant in variants):
            known = dict.fromkeys(plain(each) for variant in variants for each in variant.values)
            raise InputError(f"'{parameter.name}' cannot be {text}: expected some of {', '.join(known)}")
    left = tuple(value for value in values if _among(value, parameter))
    if not left:
        raise InputError(
            f"'{parameter.name}' for {parameter.conditions}: expected some of {parameter.shown}, received "
            f"{', '.join(map(plain, values))}. Add one of those, or narrow {parameter.when[0][0]} as well"
        )
    return left


def _among(value: Any, parameter: Parameter) -> bool:
    return any(value == known and type(value) is type(known) for known in parameter.values)


def _number_of(parameter: Parameter, text: Any) -> float:
    try:
        number = float(text)
    except (TypeError, ValueError) as error:
        raise InputError(f"'{parameter.name}': expected a number or LOW..HIGH, received {text!r}") from error
    whole = number == int(number) if math.isfinite(number) else False
    return int(number) if whole and (parameter.whole or isinstance(text, int)) else number


def read_parameter(fields: Any) -> Parameter:
    """A parameter of a space file."""
    if not isinstance(fields, Mapping) or "name" not in fields:
        raise InputError(f"expected a hyperparameter as an object with a name, received {json.dumps(fields)}")
    return Parameter.from_json({"about": MEANINGS.get(str(fields["name"]), ""), **fields})

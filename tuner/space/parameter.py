"""One hyperparameter: what it may be, when it matters, and how its values are read from options and files."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from cxr.errors import InputError
from tuner.space.translation import MEANINGS, plain

When = tuple[tuple[str, tuple[Any, ...]], ...]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One hyperparameter: a choice of values, or a range.

    Attributes:
      name: see `tuner.space.translation.MEANINGS`, or a scalar field of `TrainConfig`.
      about: a line for people.
      values: numbers, texts or booleans to choose from; at least two, or one under a condition. Or else a range:
      low, high: its ends, both included; whole numbers if both are.
      log: the range is sampled by its logarithm.
      step: of a range that is not logarithmic; None for any value in it.
      when: conditions, all of which must hold: another parameter's name, and its values. A parameter's conditions begin
        with those of each parameter that it depends on.

    Raises:
      InputError: it has neither values nor a range, or the range is empty.
    """

    name: str
    about: str = ""
    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    when: When = ()

    def __post_init__(self):
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "when", tuple((name, tuple(values)) for name, values in self.when))
        name = f"hyperparameter '{self.name}'"
        if self.values:
            if self.low is not None or self.high is not None:
                raise InputError(f"{name} has values and a range; give one of them")
            kinds = {str if isinstance(v, str) else bool if isinstance(v, bool) else float for v in self.values}
            if len(kinds) > 1 or not all(isinstance(v, (str, bool, int, float)) for v in self.values):
                raise InputError(
                    f"{name}: expected all texts, all numbers or all true and false, received {self.shown}"
                )
            if any(isinstance(v, float) for v in self.values):  # KerasTuner takes no mixture of both
                object.__setattr__(self, "values", tuple(float(v) for v in self.values))
            if len(set(self.values)) < max(1 if self.when else 2, len(self.values)):
                raise InputError(f"{name}: expected at least two different values, received {list(self.values)}")
            return
        low, high = self.ends
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(
                f"{name}: expected values, or numbers low < high; received low={self.low!r}, high={self.high!r}"
            )
        if not isinstance(self.log, bool):
            raise InputError(f"{name}: expected log to be true or false, received {self.log!r}")
        if self.log and low <= 0:
            raise InputError(f"{name}: a logarithmic range begins above 0; received low={self.low}")
        if self.step is None:
            return
        if self.log:
            raise InputError(f"{name}: a logarithmic range has no step; received {self.step}. List its values instead")
        if not _is_finite(self.step) or not 0 < self.step <= high - low:
            raise InputError(f"{name}: expected a step in (0, {high - low:g}], received {self.step!r}")
        if self.whole and self.step != int(self.step):
            raise InputError(f"{name}: expected a whole step in a range of whole numbers, received {self.step}")

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of a range; NaN where they are no numbers."""
        low, high = (
            end if isinstance(end, (int, float)) and not isinstance(end, bool) else math.nan
            for end in (self.low, self.high)
        )
        return low, high

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
        return math.floor((self.ends[1] - self.ends[0]) / (self.step or 1) + 1e-9) + 1

    @property
    def samples(self) -> tuple[Any, ...]:
        """All its values, or the ends of its range."""
        return self.values or (self.low, self.high)

    @property
    def examples(self) -> tuple[Any, ...]:
        """`samples`, and a value from the inside of a range."""
        if self.values:
            return self.values
        low, high = self.ends
        middle = low + (high - low) / 2
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
        return (
            f"{self.low:g} to {self.high:g}"
            + (", log" if self.log else "")
            + (f", step {self.step:g}" if self.step else "")
        )


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


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
        if not set(wanted) <= {"low", "high", "log", "step"}:
            raise InputError(f"'{parameter.name}': expected low, high, log and step, received {', '.join(wanted)}")
        low, high = (_number(parameter, wanted.get(name, getattr(parameter, name))) for name in ("low", "high"))
        log = wanted.get("log", parameter.log)
        step = wanted.get("step", None if log else parameter.step)
        return Parameter(parameter.name, parameter.about, (), low, high, log, step, parameter.when)
    texts = wanted.split(",") if isinstance(wanted, str) else wanted if isinstance(wanted, (list, tuple)) else [wanted]
    if not parameter.values:
        return tuple(_number(parameter, text) for text in texts)
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


def _number(parameter: Parameter, text: Any) -> float:
    try:
        number = float(text)
    except (TypeError, ValueError) as error:
        raise InputError(f"'{parameter.name}': expected a number or LOW..HIGH, received {text!r}") from error
    whole = number == int(number) if math.isfinite(number) else False
    return int(number) if whole and (parameter.whole or isinstance(text, int)) else number


def read_parameter(fields: Mapping[str, Any]) -> Parameter:
    """A parameter of a space file."""
    known = [field.name for field in dataclasses.fields(Parameter)]
    if not isinstance(fields, Mapping) or not isinstance(fields.get("name", ""), str):
        raise InputError(f"expected a hyperparameter as an object with a name, received {json.dumps(fields)}")
    unknown = sorted(set(fields) - set(known))
    if unknown or "name" not in fields:
        fault = f"unknown {', '.join(unknown)}" if unknown else "it has no name"
        raise InputError(f"a hyperparameter has {', '.join(known)}; {fault}")
    when = fields.get("when", {})
    if not isinstance(when, Mapping) or not all(isinstance(values, list) for values in when.values()):
        raise InputError(
            f"'{fields['name']}': expected `when` as an object of names and lists, received {json.dumps(when)}"
        )
    if not isinstance(fields.get("values", []), list):
        raise InputError(f"'{fields['name']}': expected `values` as a list, received {json.dumps(fields['values'])}")
    about = fields.get("about", MEANINGS.get(fields["name"], ""))
    return Parameter(
        **{**fields, "about": about, "when": tuple((name, tuple(values)) for name, values in when.items())}
    )

"""One hyperparameter: what it may be, when it matters, and how its values are read from options and files."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
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
      values: numbers, texts or booleans to choose from, at least two; or else a range:
      low, high: its ends, both included; whole numbers if both are.
      log: its logarithm is what is uniform.
      step: of a range that is not logarithmic; none for any value in it.
      when: conditions, all of which must hold: another parameter's name, and its values. A parameter's conditions begin
        with those of each that it depends on.

    Raises:
      InputError: it is neither, or a range without an inside.
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
            if len(set(self.values)) < max(2, len(self.values)):
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
            raise InputError(f"{name}: a range that is logarithmic begins above 0; received low={self.low}")
        if self.step is None:
            return
        if self.log:
            raise InputError(f"{name}: a range that is logarithmic has no step; received {self.step}. List its values")
        if not is_finite(self.step) or not 0 < self.step <= high - low:
            raise InputError(f"{name}: expected a step in (0, {high - low:g}], received {self.step!r}")
        if self.whole and self.step != int(self.step):
            raise InputError(f"{name}: expected a whole step in a range of whole numbers, received {self.step}")

    @property
    def ends(self) -> tuple[float, float]:
        """Of a range; NaN where they are no numbers."""
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
        """Number of its values; None where a range has no end of them."""
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

    @property
    def shown(self) -> str:
        """What it may be, as text."""
        if self.values:
            return ", ".join(plain(value) for value in self.values)
        return (
            f"{self.low:g} to {self.high:g}"
            + (", log" if self.log else "")
            + (f", step {self.step:g}" if self.step else "")
        )


def is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def value_of(parameter: Parameter | None, value: Any) -> Any:
    """A value as the parameter has it: what reads the same is the same."""
    if parameter is not None:
        for known in parameter.values:
            if value == known and isinstance(value, bool) == isinstance(known, bool):
                return known
        for known in parameter.values:
            if plain(known) == str(value).lower():
                return known
    return value


def narrowed(parameter: Parameter, wanted: Any) -> Any:
    """The parameter with fewer values, or the one value that is left."""
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
    if parameter.values:
        values = [value_of(parameter, text) for text in texts]
        for value, text in zip(values, texts, strict=True):
            if not any(value == known and type(value) is type(known) for known in parameter.values):
                raise InputError(f"'{parameter.name}' cannot be {text}: expected some of {parameter.shown}")
    else:
        values = [_number(parameter, text) for text in texts]
    if len(values) == 1:
        return values[0]
    return dataclasses.replace(parameter, values=tuple(values), low=None, high=None, log=False, step=None)


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

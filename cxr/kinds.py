"""Kinds of values that an option may have: each checks a value, reads it from text, and says what it expects.

`str(kind)` completes the sentence "expected ...". `check` takes a Python or JSON value, `parse` the text of a command
line; both return the value as it is stored, and raise ValueError where it is not of this kind.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


class Kind:
    """The base of all kinds: any value."""

    metavar = "VALUE"
    choices: tuple[str, ...] = ()
    """Texts among which the nearest is named where a value is none of them."""

    def __str__(self) -> str:
        return "a value"

    def check(self, value: Any) -> Any:
        return value

    def parse(self, text: str) -> Any:
        return self.check(text)


@dataclasses.dataclass(frozen=True)
class Text(Kind):
    """Text; a path is taken as its text."""

    expected: str = "text"
    metavar: str = "TEXT"
    may_be_empty: bool = False

    def __str__(self) -> str:
        return self.expected

    def check(self, value: Any) -> str:
        if isinstance(value, Path):
            return os.fspath(value)
        if not isinstance(value, str) or not (value or self.may_be_empty):
            raise ValueError(value)
        return value


def directory(metavar: str = "DIR") -> Text:
    """The path of a directory."""
    return Text("the path of a directory", metavar)


def file_path(metavar: str = "FILE") -> Text:
    """The path of a file."""
    return Text("the path of a file", metavar)


@dataclasses.dataclass(frozen=True)
class Flag(Kind):
    """True or false.

    Attributes:
      negated: the command line has `--no-NAME` as well, for an option that a preset or file may have set.
    """

    negated: bool = False

    def __str__(self) -> str:
        return "true or false"

    def check(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError(value)
        return value


@dataclasses.dataclass(frozen=True)
class Choice(Kind):
    """One of a few names."""

    choices: tuple[str, ...] = ()
    named: str = ""
    """Metavar, where listing the choices there would be too long."""

    def __str__(self) -> str:
        return f"one of {', '.join(self.choices)}"

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return self.named or "|".join(self.choices)

    def check(self, value: Any) -> str:
        if value not in self.choices:
            raise ValueError(value)
        return str(value)


@dataclasses.dataclass(frozen=True)
class Whole(Kind):
    """A whole number of at least `low`, and at most `high`."""

    low: int | None = None
    high: int | None = None
    metavar: str = "N"

    def __str__(self) -> str:
        return f"a whole number{_span(self.low, self.high)}"

    def check(self, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise ValueError(value)
        number = int(value.__index__())
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            raise ValueError(value)
        return number

    def parse(self, text: str) -> int:
        return self.check(int(text))


@dataclasses.dataclass(frozen=True)
class Real(Kind):
    """A finite number of at least `low` or above `above`, and at most `high` or below `below`."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    metavar: str = "X"

    def __str__(self) -> str:
        if self.above is None and self.below is None:
            return f"a number{_span(self.low, self.high)}"
        begin = f"above {self.above:g}" if self.above is not None else f"of at least {self.low:g}"
        end = f"below {self.below:g}" if self.below is not None else f"at most {self.high:g}" if self.high else ""
        return f"a number {begin}{f' and {end}' if end else ''}"

    def check(self, value: Any) -> float:
        if isinstance(value, bool) or (not isinstance(value, int | float) and not hasattr(value, "__float__")):
            raise ValueError(value)
        number = float(value)
        if (
            not math.isfinite(number)
            or (self.low is not None and number < self.low)
            or (self.high is not None and number > self.high)
            or (self.above is not None and number <= self.above)
            or (self.below is not None and number >= self.below)
        ):
            raise ValueError(value)
        return number

    def parse(self, text: str) -> float:
        return self.check(float(text))


def _span(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    return f" of at least {low:g}" if high is None else f" from {low:g} to {high:g}"


@dataclasses.dataclass(frozen=True)
class Several(Kind):
    """From `least` to `most` values of one kind; as text separated by commas, `none` for no value."""

    of: Kind
    least: int = 1
    most: int | None = None
    distinct: bool = False
    metavar: str = "A,B"

    def __str__(self) -> str:
        count = f"{self.least} or more " if self.most is None else f"{self.least} to {self.most} "
        count = f"{self.least} " if self.least == self.most else count if self.most or self.least else ""
        words = f"{count}{'different ' if self.distinct else ''}values separated by commas, each {self.of}"
        return words + (", or none" if self.least == 0 else "")

    def check(self, value: Any) -> tuple[Any, ...]:
        values = value if isinstance(value, list | tuple) else (value,)
        found = tuple(self.of.check(item) for item in values)
        if len(found) < self.least or (self.most is not None and len(found) > self.most):
            raise ValueError(value)
        if self.distinct and len(set(found)) < len(found):
            raise ValueError(value)
        return found

    def parse(self, text: str) -> tuple[Any, ...]:
        empty = self.least == 0 and text.strip() in ("", "none")
        return self.check(() if empty else tuple(self.of.parse(part.strip()) for part in text.split(",")))


@dataclasses.dataclass(frozen=True)
class Pairs(Kind):
    """Values by name; on the command line any number of NAME=VALUE.

    Attributes:
      texts: values of the command line stay text; otherwise numbers and lists are read.
    """

    metavar: str = "NAME=VALUE"
    texts: bool = False

    def __str__(self) -> str:
        return f"values by name, {self.metavar}"

    def check(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise ValueError(value)
        return {name: list(item) if isinstance(item, tuple) else item for name, item in value.items()}

    def parse(self, text: str) -> dict[str, Any]:
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise ValueError(text)
        if self.texts:
            return {name.replace("-", "_"): value}
        values = [json_or_text(part) for part in value.split(",")]
        return {name.replace("-", "_"): values if "," in value else values[0]}


@dataclasses.dataclass(frozen=True)
class Parsed(Kind):
    """A kind of its own, by a function that checks a value and returns it as it is stored, or raises ValueError."""

    read: Callable[[Any], Any]
    expected: str
    metavar: str = "VALUE"

    def __str__(self) -> str:
        return self.expected

    def check(self, value: Any) -> Any:
        return self.read(value)


def json_or_text(text: str) -> Any:
    """A number, true, false or null as JSON has them; anything else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def plain_sequence(values: Sequence[Any]) -> str:
    """`(32, 64)` as `32,64`; none for no value."""
    return ",".join(str(value) for value in values) or "none"

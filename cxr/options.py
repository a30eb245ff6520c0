"""Options, each said once: a field of a dataclass with its kind, its help and its default.

    @options
    class TrainConfig(Options):
        \"\"\"What a training run is.\"\"\"

        epochs: int = option(Whole(1), "passes over the training split", default=15)

From that follow the checks when one is made, JSON with its checks, the arguments of a command line and their help
(`cxr.command`), the attributes in the docstring, and the nearest name where one is wrong.

Why not a library: pydantic-settings, jsonargparse, cyclopts and tyro take 8 to 19 times as long to import as argparse
(`cxr --help` is to take less than 0.3 s), each has error messages of its own form and length, and Beam's unknown
options have to pass through.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

from cxr.errors import InputError
from cxr.kinds import Flag, Kind, plain_sequence

_Type = TypeVar("_Type", bound=type)
REQUIRED: Any = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Option:
    """What is said of one option.

    Attributes:
      kind: values that it may have. None is allowed where it is the default.
      help: what it is, in a line or two.
      group: heading in the help of a command.
      unset: what its default of None means.
      flag: name on the command line, where that is not the field's; `positional` for an argument without a flag.
      repeated: on the command line it may be given several times.
      shown: whether a command line has it.
      alone: a flag beside which nothing else is required.
    """

    kind: Kind
    help: str
    group: str = ""
    unset: str = ""
    flag: str = ""
    positional: bool = False
    repeated: bool = False
    shown: bool = True
    alone: bool = False


def option(kind: Kind, help: str, *, default: Any = REQUIRED, default_factory: Any = REQUIRED, **more: Any) -> Any:
    """A field of an options class; see `Option` for what more may be said."""
    metadata = {"option": Option(kind, help, **more)}
    if default_factory is not REQUIRED:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass_transform(frozen_default=True, field_specifiers=(option, dataclasses.field))
def options(cls: _Type) -> _Type:
    """Makes a frozen dataclass of options, and adds them to its docstring."""
    made: Any = dataclasses.dataclass(frozen=True)(cls)
    lines = [f"  {name}: {describe(made, name)}" for name in fields_of(made)]
    made.__doc__ = "\n".join([(cls.__doc__ or "").rstrip(), "", "Attributes:", *lines])
    return made


class Options:
    """The base of options classes."""

    title: ClassVar[str] = "options"
    """What they are options of, for messages."""

    def __post_init__(self) -> None:
        for name, said in fields_of(type(self)).items():
            value = getattr(self, name)
            if value is None and default_of(type(self), name) is None:
                continue
            object.__setattr__(self, name, checked(name, said.kind, value))
        self.check()

    def check(self) -> None:
        """Raises InputError where options do not go together."""

    def to_json(self) -> dict[str, Any]:
        """As values that JSON has; `from_json` reads them."""
        return {name: getattr(self, name) for name in fields_of(type(self))}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """From what `to_json` gave, or a part of it: what is left out has its default.

        Raises:
          InputError: an option is unknown or has a bad value.
        """
        check_names(fields, fields_of(cls), f"the {cls.title}", "option")
        return cls(**fields)


def fields_of(cls: Any) -> dict[str, Option]:
    """The options of a class, by name, in order."""
    return {field.name: field.metadata["option"] for field in dataclasses.fields(cls) if "option" in field.metadata}


def default_of(cls: Any, name: str) -> Any:
    """The default of an option; `REQUIRED` where it has none."""
    field = cls.__dataclass_fields__[name]
    return field.default if field.default_factory is REQUIRED else field.default_factory()


def checked(name: str, kind: Kind, value: Any) -> Any:
    """A value as its kind stores it.

    Raises:
      InputError: it is not of that kind; names the option, what was received and what is expected.
    """
    try:
        return kind.check(value)
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"{name}={value!r}: expected {kind}{nearest(value, kind.choices)}") from None


def check_names(given: Iterable[str], known: Iterable[str], owner: str, what: str) -> None:
    """Raises InputError where a name is unknown; names the nearest, or else all."""
    names = list(known)
    for name in given:
        if name not in names:
            hint = nearest(name, names) or f"; known are {', '.join(names)}"
            raise InputError(f"{owner} has no {what} '{name}'{hint}")


def nearest(name: Any, known: Iterable[str]) -> str:
    """`; did you mean NAME?` for the known name nearest to one that is not, or nothing."""
    found = difflib.get_close_matches(str(name), list(known), 1)
    return f"; did you mean {found[0]}?" if found else ""


def describe(cls: Any, name: str) -> str:
    """What an option is, what it may be and its default, for help and docstrings."""
    said, default = fields_of(cls)[name], default_of(cls, name)
    range_of = "" if isinstance(said.kind, Flag) or type(said.kind) is Kind else f"; {said.kind}"
    return f"{said.help}{range_of}{shown_default(default, said)}"


def shown_default(default: Any, said: Option) -> str:
    """The default of an option in parentheses, or nothing."""
    if said.unset:
        return f" ({said.unset})"
    if default is REQUIRED or default is None or default is False or default is True or default == {}:
        return ""
    shown = plain_sequence(default) if isinstance(default, tuple) else default
    return f" ({shown:g})" if isinstance(shown, float) else f" ({shown})"

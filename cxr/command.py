"""A command: its options, its help, and errors of its command line in one line each.

Every command is a module that holds an options class, a function from what is given to an exit status, and

    COMMAND = Command("verify", "Checks a data set.", run, VerifyOptions)
    main = COMMAND.main
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from cxr.errors import UsageError
from cxr.extras import require
from cxr.kinds import Flag, Kind, Pairs, Several
from cxr.options import REQUIRED, Option, Options, default_of, fields_of, nearest, shown_default

_Made = TypeVar("_Made", bound=Options)


class Given(dict[str, Any]):
    """Values of the options that a command line gives, by name; those that it leaves out are not in it.

    Attributes:
      argv: the command line.
      rest: its options that the command does not know, where it lets them pass.
    """

    argv: list[str]
    rest: list[str]

    def of(self, cls: type[Options]) -> dict[str, Any]:
        """Those that are options of a class."""
        return {name: value for name, value in self.items() if name in fields_of(cls)}

    def make(self, cls: type[_Made], **others: Any) -> _Made:
        """An options class made of them.

        Raises:
          InputError: they do not go together.
        """
        return cls(**{**self.of(cls), **others})


@dataclasses.dataclass(frozen=True)
class Command:
    """One subcommand of `cxr`.

    Attributes:
      name: that follows `cxr`.
      about: what it does, a few lines.
      run: called with what is given; returns the exit status.
      options: the options classes; the first is the command's own.
      epilog: text behind the options in the help, or a function that makes it.
      needs: what has to be installed, a key of `cxr.extras.MODULES`.
      passes: unknown options are kept in `Given.rest` instead of being an error.
      groups: headings of the help, in order; those of the options where not given.
    """

    name: str
    about: str
    run: Callable[[Given], int]
    options: type[Options] | tuple[type[Options], ...]
    epilog: str | Callable[[], str] = ""
    needs: str = ""
    passes: bool = False
    groups: tuple[str, ...] = ()

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Runs the command; returns its exit status.

        Raises:
          UsageError: the command line cannot be understood.
          CxrError: what the command raises.
        """
        given = self.parse(argv)
        if self.needs:
            require(f"cxr {self.name}", self.needs)
        return self.run(given)

    @property
    def classes(self) -> tuple[type[Options], ...]:
        """The options classes."""
        return self.options if isinstance(self.options, tuple) else (self.options,)

    @property
    def flags(self) -> list[str]:
        """The options of its command line: `--run`, ..."""
        return list(self._parser()._option_string_actions)

    def parse(self, argv: Sequence[str] | None = None) -> Given:
        """Reads a command line; prints the help and exits where it is asked for.

        Raises:
          UsageError: an option is unknown, missing or has a bad value.
        """
        arguments = list(sys.argv[1:] if argv is None else argv)
        parser = self._parser()
        found, rest = parser.parse_known_args(arguments)
        given = Given(vars(found))
        given.argv, given.rest = arguments, rest
        if rest and not self.passes:
            parser.refuse(rest[0])
        known = [(cls, name, said) for cls in self.classes for name, said in fields_of(cls).items() if said.shown]
        if any(said.alone and name in given for _, name, said in known):
            return given
        for cls, name, said in known:
            if given.get(name) == [] or (name not in given and default_of(cls, name) is REQUIRED):
                if rest and nearest(rest[0].split("=")[0], [_flag(name, said)]):
                    parser.refuse(rest[0])
                raise UsageError(f"{_shown_name(name, said)} is missing: {said.help}")
        return given

    def _parser(self) -> _Parser:
        parser = _Parser(
            prog=f"cxr {self.name}", description=self.about, allow_abbrev=False, argument_default=argparse.SUPPRESS,
            usage=self._usage(), formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=self.epilog() if callable(self.epilog) else self.epilog,
        )  # fmt: skip
        groups: dict[str, Any] = {"": parser, **{name: parser.add_argument_group(name) for name in self.groups}}
        for cls in self.classes:
            for name, said in fields_of(cls).items():
                if said.shown and name not in parser.kinds:
                    if said.group not in groups:
                        groups[said.group] = parser.add_argument_group(said.group)
                    parser.kinds[name] = said.kind
                    _add_argument(groups[said.group], name, said, default_of(cls, name))
        return parser

    def _usage(self) -> str:
        needed, places = [], []
        for cls in self.classes:
            for name, said in fields_of(cls).items():
                if said.positional:
                    places.append(said.kind.metavar if default_of(cls, name) is REQUIRED else f"[{said.kind.metavar}]")
                elif said.shown and default_of(cls, name) is REQUIRED:
                    needed.append(f"{_flag(name, said)} {said.kind.metavar}")
        return " ".join([f"cxr {self.name}", *places, *needed, "[OPTIONS]"])


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, in the words of all other errors."""

    def __init__(self, **arguments: Any):
        super().__init__(**arguments)
        self.kinds: dict[str, Kind] = {}

    def error(self, message: str) -> NoReturn:
        found = re.fullmatch(r"argument ([^:]+): (.*)", message)
        if found is None:
            raise UsageError(message)
        flag, fault = found[1].split(",")[0].split("/")[0], found[2]
        action = self._option_string_actions.get(flag)
        kind = self.kinds.get(action.dest) if action else None
        if "expected" in fault and kind is not None:
            fault = f"expected {kind}; received nothing"
        raise UsageError(f"{flag}: {fault}")

    def refuse(self, argument: str) -> NoReturn:
        """Raises UsageError for an argument that is not known."""
        name = argument.split("=")[0]
        if not name.startswith("-"):
            raise UsageError(f"{self.prog} does not take the argument {argument!r}; see {self.prog} --help")
        hint = nearest(name, self._option_string_actions) or f"; see {self.prog} --help"
        raise UsageError(f"{self.prog} has no option {name}{hint}")


def _flag(name: str, said: Option) -> str:
    return said.flag or "--" + name.replace("_", "-")


def _shown_name(name: str, said: Option) -> str:
    return said.kind.metavar if said.positional else _flag(name, said)


def _add_argument(group: Any, name: str, said: Option, default: Any) -> None:
    """Adds one option to a parser or a group of it."""
    flag, kind = _flag(name, said), said.kind
    help_text = (said.help + shown_default(default, said)).replace("%", "%%")
    if isinstance(kind, Flag):
        if kind.negated:
            group.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction, help=help_text)
        elif default is True:
            group.add_argument(f"--no-{flag[2:]}", dest=name, action="store_false", help=help_text)
        else:
            group.add_argument(flag, dest=name, action="store_true", help=help_text)
        return
    settings: dict[str, Any] = {"metavar": kind.metavar, "help": help_text}
    one = kind.of if isinstance(kind, Several) and (said.positional or said.repeated) else kind
    settings["type"] = _reader(_shown_name(name, said), one)
    if isinstance(kind, Pairs):
        settings |= {"nargs": "+", "action": _Merge}
    elif said.repeated:
        settings["action"] = "append"
    if not said.positional:
        group.add_argument(flag, dest=name, **settings)
    elif isinstance(kind, Several):
        group.add_argument(name, nargs="*", **settings)
    else:
        group.add_argument(name, nargs="?", **settings)


class _Merge(argparse.Action):
    """Puts the pairs of several arguments into one dictionary."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        found: dict[str, Any] = dict(getattr(namespace, self.dest, {}))
        for pair in values:
            found.update(pair)
        setattr(namespace, self.dest, found)


def _reader(name: str, kind: Kind) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind.parse(text)
        except (ValueError, TypeError, OverflowError):
            raise UsageError(f"{name} {text}: expected {kind}{nearest(text, kind.choices)}") from None

    return read

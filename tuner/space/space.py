"""A search space: what is varied, when it matters, and what is the same in every trial.

KerasTuner's `HyperParameters`, the table for people and the checks all come from it. What the values mean for a
training run is in `tuner.space.translation`; the named spaces are in `tuner.space.catalogue`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cxr.errors import DatasetError, InputError
from cxr.files import read_json
from cxr.kinds import Pairs, Parsed, Text
from cxr.options import Options, check_names, default_of, nearest, option, options
from trainer.train_config import TrainConfig
from tuner.space.catalogue import SPACES
from tuner.space.conditions import check_condition, count_combinations, exclusive, parent_of, settle
from tuner.space.parameter import Parameter, narrowed, read_parameter, value_of
from tuner.space.translation import MEANINGS, TRAINER_FIELDS, plain, translate, used

if TYPE_CHECKING:
    from keras_tuner import HyperParameters


@dataclasses.dataclass(frozen=True)
class Space:
    """What a search may vary.

    Attributes:
      name: of the space that it was made from.
      parameters: each after those that it depends on. Several may have one name, such as the learning rates of
        different optimizers, if their conditions never hold together.
      fixed: what is the same in every trial: hyperparameters, or scalar fields of `TrainConfig`.

    Raises:
      InputError: conditions on what is not there, unknown names, values that no training run can have, or a
        hyperparameter without effect.
    """

    name: str
    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for number, parameter in enumerate(self.parameters):
            _check_name(parameter.name)
            earlier = self.parameters[:number]
            if parameter.name in self.fixed or not all(exclusive(parameter, other) for other in earlier):
                raise InputError(f"hyperparameter '{parameter.name}' appears twice")
            for place in range(len(parameter.when)):
                check_condition(parameter, place, earlier)
        for name in self.fixed:
            _check_name(name)
        self._check_values()

    @staticmethod
    def named(name: str) -> Space:
        """`compact`, `full` or `notebooks`; see `tuner.space.catalogue`.

        Raises:
          InputError: another name.
        """
        if name not in SPACES:
            known = f"one of {', '.join(SPACES)}, or a JSON file"
            raise InputError(f"space '{name}': expected {known}{nearest(name, SPACES)}")
        return Space(name, SPACES[name]())

    @staticmethod
    def load(text: str) -> Space:
        """A space by name, or from a JSON file.

        What the file holds is `SpaceFile`.

        Raises:
          InputError: no such name or file, or one that says something else.
        """
        if not text.endswith(".json") and not Path(text).is_file():
            return Space.named(text)
        try:
            fields = read_json(Path(text))
        except DatasetError as error:
            raise InputError(f"the space {error}") from error
        try:
            return SpaceFile.from_json(fields).read(Path(text).stem)
        except InputError as error:
            raise InputError(f"{text}: {error}") from error

    def fix(self, pairs: Mapping[str, Any]) -> Space:
        """With some hyperparameters, or fields of `TrainConfig`, the same in every trial.

        What depended on another value of them is left out. A value may lie outside of what was varied.
        `image_size=native` leaves out models and other values that a run at native size cannot have.

        Raises:
          InputError: an unknown name, a value that it cannot have, or one that no trial would use.
        """
        if pairs.get("image_size") == "native" and (able := self._able_natively(pairs)):
            return self.narrow(able).fix(pairs)
        kept: Sequence[Parameter] = self.parameters
        fixed = dict(self.fixed)
        for name, value in pairs.items():
            _check_name(name)
            fixed[name] = value_of(self.variants(name), value)
            kept = settle([other for other in kept if other.name != name], name, (fixed[name],))
        space = Space(self.name, tuple(kept), fixed)
        useful: set[str] = set().union(*(used({**fixed, **values}) for values in space._examples()))
        for name in pairs:
            if name not in useful and not self.variants(name):
                raise InputError(f"'{name}' is fixed to {plain(fixed[name])}, which no trial of the space uses")
        return space

    def narrow(self, pairs: Mapping[str, Any]) -> Space:
        """With some hyperparameters varied less.

        Args:
          pairs: by name, as for `fix`: values as a list or as text with commas, or a range as
            `{"low": ..., "high": ..., "log": ...}` or as text, `LOW..HIGH`. Where it is left out, `log` stays as it
            was. Of several parameters of one name, each keeps those of the values that it had, or gets the range.

        Raises:
          InputError: a name that is not varied, or values that it cannot have.
        """
        space = self
        places = [parameter.name for parameter in self.parameters]
        for name, wanted in sorted(pairs.items(), key=lambda pair: places.index(pair[0]) if pair[0] in places else 99):
            space = space._narrow(name, wanted)
        return space

    def _narrow(self, name: str, wanted: Any) -> Space:
        variants = self.variants(name)
        if not variants:
            fixed = f"; it is fixed to {plain(self.fixed[name])}" if name in self.fixed else ""
            hint = fixed or nearest(name, self.names) or f"; varied are {', '.join(self.names)}"
            raise InputError(f"'{name}' is not varied in the space '{self.name}'{hint}")
        found = [narrowed(variant, wanted, variants) for variant in variants]
        if all(isinstance(less, tuple) and less == found[0] and len(less) == 1 for less in found):
            return self.fix({name: found[0][0]})  # type: ignore[index]
        parameters: Sequence[Parameter] = self.parameters
        for variant, left in zip(variants, found, strict=True):
            less = left
            if not isinstance(less, Parameter):
                less = dataclasses.replace(variant, values=less, low=None, high=None, log=False, step=None)
            children = [p.name for p in self.parameters if any(parent_of(p, n, [variant]) for n in range(len(p.when)))]
            if children and not less.values:
                raise InputError(f"'{name}': expected values, as {', '.join(children)} depend on them, not a range")
            parameters = [less if other == variant else other for other in parameters]
            parameters = settle(parameters, name, less.values, variant) if children else parameters
        return Space(self.name, tuple(parameters), self.fixed)

    @property
    def names(self) -> list[str]:
        """Names of what is varied, each once."""
        return list(dict.fromkeys(parameter.name for parameter in self.parameters))

    def variants(self, name: str) -> list[Parameter]:
        """The parameters of a name; none where it is not varied."""
        return [parameter for parameter in self.parameters if parameter.name == name]

    @functools.cached_property
    def keys(self) -> dict[Parameter, str]:
        """The name by which an oracle knows each parameter: KerasTuner's grid takes no two of one name."""
        keys = {}
        for name in self.names:
            for number, parameter in enumerate(self.variants(name), 1):
                keys[parameter] = name if number == 1 else f"{name}#{number}"
        return keys

    def hyperparameters(self) -> HyperParameters:
        """What KerasTuner's oracles draw from; `chosen` reads what they drew."""
        from keras_tuner import HyperParameters

        drawn = HyperParameters()
        for parameter in self.parameters:
            key = self.keys[parameter]
            with contextlib.ExitStack() as scopes:
                for place, (_, values) in enumerate(parameter.when):
                    parent = next(other for other in self.parameters if parent_of(parameter, place, [other]))
                    scopes.enter_context(drawn.conditional_scope(self.keys[parent], list(values)))
                if parameter.values and isinstance(parameter.values[0], bool) and len(parameter.values) == 2:
                    drawn.Boolean(key)
                elif parameter.values:
                    drawn.Choice(key, list(parameter.values))
                else:
                    make = drawn.Int if parameter.whole else drawn.Float
                    sampling = "log" if parameter.log else "linear"
                    whole = parameter.whole and not parameter.log
                    step = int(parameter.step or 1) if whole else parameter.step
                    make(key, parameter.low, parameter.high, step=step, sampling=sampling)
        return drawn

    def chosen(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Hyperparameters by name, from what an oracle drew: those that matter, and nothing that KerasTuner adds."""
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if self.keys[parameter] in drawn and parameter.matters(values):
                values[parameter.name] = drawn[self.keys[parameter]]
        return values

    def train_config(self, values: Mapping[str, Any], *, epochs: int, monitor: str, seed: int) -> TrainConfig:
        """The training run that hyperparameters stand for.

        Args:
          values: by name; what is not active is ignored.
          epochs: at most; a notebook's recipe may have fewer.
          monitor: metric that the best epoch is chosen by.
          seed: of the run.

        Raises:
          InputError: a value that no run can have.
        """
        fields = translate({**self.fixed, **self.active_values(values)}, epochs)
        return TrainConfig.from_json({**fields, "monitor": monitor, "seed": seed})

    def active(self, values: Mapping[str, Any]) -> list[Parameter]:
        """The hyperparameters that matter where the others have these values."""
        return [parameter for parameter in self.parameters if parameter.matters(values)]

    def active_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the values that matter, by name."""
        return {each.name: values[each.name] for each in self.active(values) if each.name in values}

    def combinations(self) -> int | None:
        """Number of configurations; None where a continuous range makes it infinite."""
        return count_combinations(self.parameters)

    def describe(self) -> str:
        """A table for people."""
        from tabulate import tabulate

        rows = [[each.name, each.shown, each.conditions, each.about] for each in self.parameters]
        count = self.combinations()
        size = "infinitely many configurations" if count is None else f"{count} configurations"
        table = tabulate(rows, ["hyperparameter", "values", "only for", "what it is"], disable_numparse=True,
                         maxcolwidths=[None, 40, 40, 50])  # fmt: skip
        fixed = "".join(f"\n{name} is always {plain(value)}" for name, value in self.fixed.items())
        return f"{table}\n\nspace '{self.name}': {len(self.names)} hyperparameters, {size}{fixed}"

    def to_json(self) -> dict[str, Any]:
        """As values that JSON has; `from_json` reads them."""
        parameters = [
            {name: value for name, value in each.to_json().items() if repr(value) != repr(default_of(Parameter, name))}
            for each in self.parameters
        ]
        return {"name": self.name, "parameters": parameters, "fixed": dict(self.fixed)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Space:
        """From what `to_json` gave.

        Raises:
          InputError: it is of another version, or no space.
        """
        try:
            parameters = tuple(Parameter(**each) for each in fields["parameters"])
            return cls(fields["name"], parameters, dict(fields["fixed"]))
        except (KeyError, TypeError, ValueError) as error:
            what = "expected a space as this version writes it"
            raise InputError(f"{what}; received one that is not: {error}") from error

    def _check_values(self) -> None:
        """Translates an example of each value, so that no trial meets one that is wrong."""
        for values in self._examples():
            for epochs in (1, 10):
                self.train_config(values, epochs=epochs, monitor="val_auc", seed=0)
            useful = used({**self.fixed, **values})
            for name in values:
                if name not in useful:
                    others = ", ".join(f"{other}={plain(value)}" for other, value in values.items() if other != name)
                    raise InputError(
                        f"hyperparameter '{name}' would change nothing with {others or 'what is fixed'}; say when it "
                        "matters with its conditions (`when`)"
                    )

    def _able_natively(self, pairs: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Of what is varied and cannot all be had at native size: the values that can."""
        found = {}
        for parameter in self.parameters:
            if parameter.name in pairs or parameter.name not in ("preset", "model", "class_weights"):
                continue
            able = []
            for value in parameter.values:
                with contextlib.suppress(InputError):
                    TrainConfig.from_json(translate({**self.fixed, **pairs, parameter.name: value}, 1))
                    able.append(value)
            if able and len(able) < len(parameter.values):  # where none can, the check of the space says why
                found[parameter.name] = able
        return found

    def _examples(self) -> Iterator[dict[str, Any]]:
        yield self._example({})
        for parameter in self.parameters:
            for value in parameter.examples:
                yield self._example({**{name: values[0] for name, values in parameter.when}, parameter.name: value})

    def _example(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.matters(values):
                values[parameter.name] = wanted.get(parameter.name, parameter.samples[0])
        return values


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(value)
    return value


@options
class SpaceFile(Options):
    """What a JSON file says of a space."""

    title: ClassVar[str] = "space file"

    space: str | None = option(Text(), "name of the space to begin with", default=None, unset="compact")
    parameters: list[Any] | None = option(Parsed(_list, "a list"), "hyperparameters of one's own", default=None)
    fix: Mapping[str, Any] = option(Pairs("an object"), "as for `Space.fix`", default_factory=dict)
    narrow: Mapping[str, Any] = option(Pairs("an object"), "as for `Space.narrow`", default_factory=dict)

    def read(self, name: str) -> Space:
        """The space, by that name if it has parameters of its own."""
        if self.parameters is None:
            space = Space.named(self.space or "compact")
        elif self.space is not None:
            raise InputError("it has a `space` to begin with and `parameters` of its own; give one of them")
        else:
            parameters = tuple(read_parameter(each) for each in self.parameters)
            own = {parameter.name for parameter in parameters}
            space = Space(name, parameters, {key: value for key, value in self.fix.items() if key not in own})
        return space.fix(self.fix).narrow(self.narrow)


def _check_name(name: str) -> None:
    check_names([name], dict.fromkeys((*MEANINGS, *TRAINER_FIELDS)), "a search", "hyperparameter")

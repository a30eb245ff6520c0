"""A search space: what is varied, when it matters, and what is the same in every trial.

A space says it once; KerasTuner's `HyperParameters`, the table for people and the checks all come from that. What the
values mean for a training run is `tuner.space.translation`'s; the named spaces are in `tuner.space.catalogue`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr.errors import InputError
from trainer.train_config import TrainConfig
from tuner.space.parameter import Parameter, narrowed, read_parameter, value_of
from tuner.space.translation import MEANINGS, TRAINER_FIELDS, VARIANTS, plain, translate, used

if TYPE_CHECKING:
    from keras_tuner import HyperParameters


@dataclasses.dataclass(frozen=True)
class Space:
    """What a search may vary.

    Attributes:
      name: of the space that it was made from.
      parameters: each after those that it depends on; no two of one name.
      fixed: what is the same in every trial: hyperparameters, or scalar fields of `TrainConfig`.

    Raises:
      InputError: conditions on what is not there, unknown names, values that no training run can have, or a
        hyperparameter that nothing would come of.
    """

    name: str
    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        seen: dict[str, Parameter] = {}
        for parameter in self.parameters:
            if parameter.name in seen or parameter.name in self.fixed:
                raise InputError(f"hyperparameter '{parameter.name}' is there twice")
            if parameter.name not in MEANINGS and parameter.name not in TRAINER_FIELDS:
                raise InputError(f"unknown hyperparameter '{parameter.name}'{_hint(parameter.name)}")
            for number, (name, values) in enumerate(parameter.when):
                if name not in seen:
                    raise InputError(
                        f"hyperparameter '{parameter.name}' depends on '{name}', which does not come before it"
                    )
                if not set(values) <= set(seen[name].values) or not values:
                    raise InputError(
                        f"'{parameter.name}' depends on {name}={list(values)}; it may be {seen[name].shown}"
                    )
                if seen[name].when != parameter.when[:number]:
                    raise InputError(
                        f"the conditions of '{parameter.name}' must begin with those of '{name}', which it depends on"
                    )
            seen[parameter.name] = parameter
        for name in self.fixed:
            if name not in MEANINGS and name not in TRAINER_FIELDS:
                raise InputError(f"unknown hyperparameter '{name}'{_hint(name)}")
        self._check_values()

    @staticmethod
    def named(name: str) -> Space:
        """`compact`, `full` or `notebooks`; see `tuner.space.catalogue`.

        Raises:
          InputError: another name.
        """
        from tuner.space.catalogue import SPACES

        if name not in SPACES:
            near = difflib.get_close_matches(name, SPACES, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InputError(f"space '{name}': {hint}expected one of {', '.join(SPACES)}, or a JSON file")
        return SPACES[name]()

    @staticmethod
    def load(text: str) -> Space:
        """A space by name, or from a JSON file.

        The file holds an object: `space`, the name of the one to begin with, or `parameters`, a list of one's own;
        and `fix` and `narrow` as for the methods.

        Raises:
          InputError: no such name or file, or one that says something else.
        """
        if not text.endswith(".json") and not Path(text).is_file():
            return Space.named(text)
        try:
            fields = json.loads(Path(text).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"the space {text} cannot be read: {error}") from error
        parts = {"parameters": list, "space": str, "fix": dict, "narrow": dict}
        if not isinstance(fields, dict) or not set(fields) <= set(parts):
            raise InputError(f"{text}: expected a JSON object with `space` or `parameters`, `fix` and `narrow`")
        for name, value in fields.items():
            if not isinstance(value, parts[name]):
                what = {list: "a list", str: "a text", dict: "an object"}[parts[name]]
                raise InputError(f"{text}: expected `{name}` to be {what}, received {json.dumps(value)}")
        if "parameters" in fields and "space" in fields:
            raise InputError(f"{text}: it has a `space` to begin with and `parameters` of its own; give one of them")
        try:
            if "parameters" in fields:
                parameters = tuple(read_parameter(each) for each in fields["parameters"])
                own = {parameter.name for parameter in parameters}
                given = {name: value for name, value in fields.get("fix", {}).items() if name not in own}
                space = Space(Path(text).stem, parameters, given)
            else:
                space = Space.named(fields.get("space", "compact"))
            return space.fix(fields.get("fix", {})).narrow(fields.get("narrow", {}))
        except InputError as error:
            raise InputError(f"{text}: {error}") from error

    def fix(self, pairs: Mapping[str, Any]) -> Space:
        """With some hyperparameters, or fields of `TrainConfig`, the same in every trial.

        What depended on another value of them is left out. A value may lie outside of what was varied. Where only
        models or optimizers are left that have a hyperparameter of their own for it, `image_size` means
        `flat_image_size`, and `learning_rate` means `sgd_learning_rate`. `image_size=native` leaves out models and
        other values that a run at native size cannot have.

        Raises:
          InputError: an unknown name, a value that it cannot have, or one that no trial would have a use for.
        """
        if pairs.get("image_size") == "native" and (able := self._able_natively(pairs)):
            return self.narrow(able).fix(pairs)
        kept, fixed = self.parameters, dict(self.fixed)
        for name, value in pairs.items():
            parameter = self._find(name)
            if parameter is None and name not in MEANINGS and name not in TRAINER_FIELDS:
                raise InputError(f"unknown hyperparameter '{name}'{_hint(name)}")
            fixed[name] = value_of(parameter, value)
            gone = {name, "flat_image_size"} if fixed[name] == "native" else {name}
            kept = _settle(tuple(other for other in kept if other.name not in gone), name, (fixed[name],))
        space = _handed_down(Space(self.name, kept, fixed))
        useful = space._used()
        for name in pairs:
            if name not in useful and self._find(name) is None:
                raise InputError(
                    f"'{name}' is fixed to {plain(fixed[name])}, which no trial of the space has a use for"
                )
        return space

    def narrow(self, pairs: Mapping[str, Any]) -> Space:
        """With some hyperparameters varied less.

        Args:
          pairs: by name, as for `fix`: values as a list or as text with commas, or a range as
            `{"low": ..., "high": ..., "log": ...}` or as text, `LOW..HIGH`. Where it is left out, `log` stays as it
            was.

        Raises:
          InputError: a name that is not varied, or values that it cannot have.
        """
        space = self
        places = [parameter.name for parameter in self.parameters]
        for name, wanted in sorted(pairs.items(), key=lambda pair: places.index(pair[0]) if pair[0] in places else 99):
            parameter = space._find(name)
            if parameter is None:
                parameter = next((p for p in space.parameters if VARIANTS.get(p.name) == name), None)
            if parameter is None:
                varied = [other.name for other in space.parameters]
                near = difflib.get_close_matches(name, varied, 1)
                fixed = f"it is fixed to {plain(space.fixed[name])}" if name in space.fixed else ""
                hint = fixed or (f"did you mean {near[0]}?" if near else f"varied are {', '.join(varied)}")
                raise InputError(f"'{name}' is not varied in the space '{space.name}'; {hint}")
            less = narrowed(parameter, wanted)
            if not isinstance(less, Parameter):
                space = space.fix({parameter.name: less})
                continue
            children = [p.name for p in space.parameters if any(parent == less.name for parent, _ in p.when)]
            if children and not less.values:
                raise InputError(
                    f"'{less.name}': expected values, as {', '.join(children)} depend on them, not a range"
                )
            parameters = tuple(less if other is parameter else other for other in space.parameters)
            parameters = _settle(parameters, less.name, less.values) if less.values else parameters
            space = _handed_down(Space(space.name, parameters, space.fixed))
        return space

    def hyperparameters(self) -> HyperParameters:
        """What KerasTuner's oracles draw from."""
        from keras_tuner import HyperParameters

        drawn = HyperParameters()
        for parameter in self.parameters:
            with contextlib.ExitStack() as scopes:
                for name, values in parameter.when:
                    scopes.enter_context(drawn.conditional_scope(name, list(values)))
                if parameter.values and isinstance(parameter.values[0], bool):
                    drawn.Boolean(parameter.name)
                elif parameter.values:
                    drawn.Choice(parameter.name, list(parameter.values))
                else:
                    make = drawn.Int if parameter.whole else drawn.Float
                    sampling = "log" if parameter.log else "linear"
                    whole = parameter.whole and not parameter.log
                    step = int(parameter.step or 1) if whole else parameter.step
                    make(parameter.name, parameter.low, parameter.high, step=step, sampling=sampling)
        return drawn

    def train_config(self, values: Mapping[str, Any], *, epochs: int, monitor: str, seed: int) -> TrainConfig:
        """The training run that hyperparameters mean.

        Args:
          values: by name, as an oracle gives them; what is not active, and what KerasTuner adds (`tuner/...`), does
            not matter.
          epochs: at most; a notebook's recipe may have fewer.
          monitor: metric that the best epoch is chosen by.
          seed: of the run.

        Raises:
          InputError: a value that no run can have.
        """
        own = {p.name: values[p.name] for p in self.active(values) if p.name in values}
        fields = translate({**self.fixed, **own}, epochs)
        return TrainConfig.from_json({**fields, "monitor": monitor, "seed": seed})

    def active(self, values: Mapping[str, Any]) -> list[Parameter]:
        """The hyperparameters that matter where the others have these values."""
        return [p for p in self.parameters if all(values.get(name) in allowed for name, allowed in p.when)]

    def combinations(self) -> int | None:
        """Number of configurations; None where a range without steps makes it endless."""
        return _combinations(self.parameters)

    def describe(self) -> str:
        """A table for people."""
        from tabulate import tabulate

        rows = []
        for parameter in self.parameters:
            when = "; ".join(f"{name}: {', '.join(map(plain, values))}" for name, values in parameter.when)
            rows.append([parameter.name, parameter.shown, when, parameter.about])
        count = self.combinations()
        size = "endlessly many configurations" if count is None else f"{count} configurations"
        table = tabulate(rows, ["hyperparameter", "values", "only for", "what it is"], disable_numparse=True,
                         maxcolwidths=[None, 40, 40, 50])  # fmt: skip
        fixed = "".join(f"\n{name} is always {plain(value)}" for name, value in self.fixed.items())
        return f"{table}\n\nspace '{self.name}': {len(self.parameters)} hyperparameters, {size}{fixed}"

    def to_json(self) -> dict[str, Any]:
        """As values that JSON has; `from_json` reads them."""
        defaults = {field.name: field.default for field in dataclasses.fields(Parameter)}
        parameters = [
            {name: value for name, value in dataclasses.asdict(each).items() if repr(value) != repr(defaults[name])}
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
            raise InputError(
                f"expected a space as this version writes it; received one that is not: {error}"
            ) from error

    def _find(self, name: str) -> Parameter | None:
        return next((parameter for parameter in self.parameters if parameter.name == name), None)

    def _check_values(self) -> None:
        """Translates an example of each value, so that none is found out to be wrong in a trial."""
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

    def _used(self) -> set[str]:
        """What at least one trial has a use for."""
        return set().union(*(used({**self.fixed, **values}) for values in self._examples()))

    def _examples(self) -> Iterator[dict[str, Any]]:
        yield self._example({})
        for parameter in self.parameters:
            for value in parameter.examples:
                yield self._example({**{name: values[0] for name, values in parameter.when}, parameter.name: value})

    def _example(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if all(values.get(name) in allowed for name, allowed in parameter.when):
                values[parameter.name] = wanted.get(parameter.name, parameter.samples[0])
        return values


def _handed_down(space: Space) -> Space:
    """Without the variants of what is fixed, where only those who have variants are left."""
    useful = space._used()
    taken = [name for name, general in VARIANTS.items() if general in space.fixed and general not in useful]
    if not any(space._find(name) for name in taken):
        return space
    return Space(space.name, tuple(p for p in space.parameters if p.name not in taken), space.fixed)


def _settle(parameters: Sequence[Parameter], name: str, values: Sequence[Any]) -> tuple[Parameter, ...]:
    """Parameters where one has only these values left: conditions that always hold go, and what none can make hold."""
    kept: list[Parameter] = []
    gone: set[str] = set()
    for parameter in parameters:
        when = []
        for parent, allowed in parameter.when:
            if parent == name:
                allowed = tuple(value for value in allowed if value in values)
            if parent in gone or not allowed:
                gone.add(parameter.name)
            elif parent != name or len(allowed) < len(values):
                when.append((parent, allowed))
        if parameter.name not in gone:
            kept.append(dataclasses.replace(parameter, when=tuple(when)))
    return tuple(kept)


def _combinations(parameters: Sequence[Parameter]) -> int | None:
    if not parameters:
        return 1
    first, rest = parameters[0], parameters[1:]
    if any(name == first.name for other in rest for name, _ in other.when):
        total = 0
        for value in first.values:
            count = _combinations(_settle(rest, first.name, (value,)))
            if count is None:
                return None
            total += count
        return total
    count = _combinations(rest)
    return None if count is None or first.count is None else first.count * count


def _hint(name: str) -> str:
    known = [*MEANINGS, *(field for field in TRAINER_FIELDS if field not in MEANINGS)]
    near = difflib.get_close_matches(str(name), known, 1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"

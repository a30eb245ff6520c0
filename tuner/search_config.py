"""The configuration of a search: one frozen dataclass, stored in its project as JSON."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, Literal, get_args

from cxr.errors import InputError
from tuner.objectives import OBJECTIVES, Objective
from tuner.space.space import Space

OracleName = Literal["hyperband", "bayesian", "random", "grid"]
PrunerName = Literal["median", "halving", "none"]


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Everything that determines the trials of a search.

    Attributes:
      data: directory of the data set.
      project: directory of the search.
      oracle: `hyperband` (Li et al. 2018) gives many trials few epochs and the best of them more; `bayesian` fits a
        Gaussian process to the scores; `random`; `grid` tries every combination.
      objective: one of `tuner.objectives.OBJECTIVES`.
      space: what is varied.
      epochs: of a trial; with `hyperband` the most that a trial gets.
      max_trials: number of trials; None is 20, but with `hyperband` and `grid` as many as they plan.
      factor: of `hyperband` and `halving`: one trial in so many continues, with so many times the epochs.
      pruner: stops a trial early, compared with others of as many epochs: `median`, when its best is worse than the
        median of the others (Golovin et al. 2017); `halving`, when it is not in the best 1/factor of those that came
        as far (Li et al. 2020); `none`.
      max_failures: failed trials in a row that end the search.
      max_attempts: workers that a trial may kill before it counts as failed.
      seed: of the oracle and of every trial's training.
      positive: of two labels, the finding; None is the one that is not named like 'normal'.
    """

    data: str
    project: str
    oracle: OracleName = "hyperband"
    objective: str = "val_auc"
    space: Space = dataclasses.field(default_factory=lambda: Space.named("compact"))
    epochs: int = 10
    max_trials: int | None = None
    factor: int = 3
    pruner: PrunerName = "median"
    max_failures: int = 5
    max_attempts: int = 3
    seed: int = 0
    positive: str | None = None

    def __post_init__(self):
        for name, allowed in (
            ("oracle", get_args(OracleName)),
            ("pruner", get_args(PrunerName)),
            ("objective", tuple(OBJECTIVES)),
        ):
            value = getattr(self, name)
            if value not in allowed:
                near = difflib.get_close_matches(str(value), allowed, 1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise InputError(f"{name}={value!r}: {hint}expected one of {', '.join(allowed)}")
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if value is None and name == "max_trials":
                continue
            if type(value) is not int or value < least:
                raise InputError(f"{name}={value!r}: expected a whole number, at least {least}")
        if not self.space.parameters and self.oracle != "grid":
            raise InputError(
                f"every hyperparameter is fixed, so there is one configuration only, and nothing for "
                f"oracle={self.oracle} to choose; train it with `cxr train`, or vary something"
            )
        if self.oracle == "grid" and self.max_trials is None and self.space.combinations() is None:
            endless = ", ".join(sorted({p.name for p in self.space.parameters if not p.values and p.step is None}))
            raise InputError(
                f"oracle=grid tries every combination, and these ranges have no end of values: {endless}. "
                "Narrow them to lists (--narrow NAME=A,B), or limit it with --max-trials"
            )

    @property
    def goal(self) -> Objective:
        """The objective."""
        return OBJECTIVES[self.objective]

    @property
    def limit(self) -> int | None:
        """Number of trials after which no new one is made; None where the oracle itself ends."""
        if self.max_trials is None and self.oracle in ("random", "bayesian"):
            return 20
        return self.max_trials

    def to_json(self) -> dict[str, Any]:
        """As values that JSON has; `from_json` reads them."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "space": self.space.to_json()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> SearchConfig:
        """From what `to_json` gave.

        Raises:
          InputError: a field is unknown or has a bad value.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        if unknown:
            raise InputError(
                f"the search has unknown settings: {', '.join(unknown)}; known are {', '.join(sorted(known))}"
            )
        return cls(**{**fields, "space": Space.from_json(fields["space"])})


_WHOLE = {"epochs": 1, "max_trials": 1, "factor": 2, "max_failures": 1, "max_attempts": 1, "seed": 0}

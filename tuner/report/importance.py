"""Which hyperparameters mattered: permutation importance of a random forest (Breiman 2001) fitted to the scores.

What is fitted are ranks, not scores: one trial that diverged has a loss a thousand times that of the others, and would
decide all splits; what is asked is what tells good trials from bad ones. A rank does not change with the scale.

Trials of few epochs have low scores, and under Hyperband it is good configurations that get many. Of a configuration
that was trained several times only the first trial counts, therefore, for its epochs were given before anything was
known of it; epochs are a variable of the forest beside the hyperparameters, and what they explain alone counts for
nothing. A trial that was pruned keeps its score: it was pruned because of what it was.

Every row that the forest is asked about is a configuration that the search might have tried. A hyperparameter is
shuffled among the trials in which it matters. Where others begin or cease to matter with it, those cease with it, or
get the value of some trial in which they mattered; what matters before and after stays as it was. So the learning rate
of SGD is not credited with the choice of SGD. The choice is with what it brings along, though: for a trial that had
another optimizer, a good rate is lost with it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tuner.results import SearchResult, TrialResult
from tuner.space.parameter import Parameter
from tuner.space.space import Space

LEAST_CONFIGURATIONS = 10
"""Below, no importances are given: any order would come of chance."""
LOW_R2 = 0.3
"""Of the forest, below which its importances are said to mean little."""
_TREES = 200
_SHUFFLES = 10


@dataclasses.dataclass(frozen=True)
class Importance:
    """Of one hyperparameter.

    Attributes:
      name: of it.
      only: the condition, where several hyperparameters have that name; else empty.
      value: how much the forest's R2 falls when it is shuffled; about 0, or below, is none at all.
      spread: standard deviation of that over the shuffles.
      trials: in which it mattered.
    """

    name: str
    value: float
    spread: float
    trials: int
    only: str = ""

    @property
    def label(self) -> str:
        """Name for a figure or a sentence."""
        return f"{self.name} ({self.only})" if self.only else self.name


@dataclasses.dataclass(frozen=True)
class Importances:
    """Of all hyperparameters that varied.

    Attributes:
      ranked: the most important first; empty where nothing can be said.
      r2: share of the variance of the ranks, among trials of as many epochs, that the forest foretells of trials that
        it has not seen (out of bag); below 0 where it does worse than their mean. None where nothing was fitted.
      configurations: that it was fitted to.
      reason: why there are none, else empty.
    """

    ranked: tuple[Importance, ...] = ()
    r2: float | None = None
    configurations: int = 0
    reason: str = ""

    @property
    def names(self) -> list[str]:
        """Hyperparameters that stand out from chance, the most important first: by twice their spread, and by 0.01."""
        if self.r2 is None or self.r2 <= 0:
            return []
        return list(dict.fromkeys(one.name for one in self.ranked if one.value > max(2 * one.spread, 0.01)))

    @property
    def caution(self) -> str:
        """How far to trust them, as a sentence; empty where there is nothing to warn of."""
        if self.r2 is None or self.r2 >= LOW_R2:
            return ""
        what = "nothing" if self.r2 <= 0 else f"only {100 * self.r2:.0f} %"
        return (
            f"From {self.configurations} configurations the forest foretells {what} of the order of trials that it has "
            f"not seen (out-of-bag R2 {self.r2:.2f}), so these importances mean little. More trials would help"
        )


def active_values(space: Space, trial: TrialResult) -> dict[str, Any]:
    """Hyperparameters that the space varies and that matter to a trial, by name."""
    return {p.name: trial.values[p.name] for p in space.active(trial.values) if p.name in trial.values}


def hyperparameter_importance(search: SearchResult, seed: int = 0) -> Importances:
    """Which hyperparameters of a search mattered; see the module's text.

    Args:
      search: as it stands.
      seed: of the forest and the shuffles.
    """
    space = Space.from_json(search.settings["space"])
    first: dict[str, TrialResult] = {}
    for trial in search.trials:
        if trial.scored:
            first.setdefault(json.dumps(active_values(space, trial), sort_keys=True), trial)
    trials = list(first.values())
    given = [1 if "preset" in trial.values else trial.epochs for trial in trials]  # a recipe's epochs are a part of it
    return importances(space, [trial.values for trial in trials], [trial.value for trial in trials], given, seed)


def importances(
    space: Space,
    values: Sequence[Mapping[str, Any]],
    scores: Sequence[float],
    epochs: Sequence[int] | None = None,
    seed: int = 0,
) -> Importances:
    """Which hyperparameters decide over the scores.

    Args:
      space: that the values are of.
      values: hyperparameters by name, one mapping a configuration; no two the same.
      scores: one a configuration; finite. Which way they are better does not matter.
      epochs: that each was given; None if the same.
      seed: of the forest and the shuffles.
    """
    count = len(scores)
    if count < LEAST_CONFIGURATIONS:
        reason = (
            f"importances need the scores of at least {LEAST_CONFIGURATIONS} different configurations, and there are "
            f"{count or 'none'}"
        )
        return Importances(configurations=count, reason=reason)
    ranks, budgets = _ranks(np.asarray(scores, float)), np.asarray(epochs if epochs is not None else [1] * count, float)
    expected = np.zeros(count)
    for budget in np.unique(budgets):
        expected[budgets == budget] = ranks[budgets == budget].mean()
    variance = float(((ranks - expected) ** 2).mean())
    if variance < 1e-12:
        return Importances(configurations=count, reason="all trials have the same score, so nothing made a difference")
    codes = Codes(space, values)
    if not codes.varied:
        return Importances(configurations=count, reason="no hyperparameter differs between the trials")
    forest = _Forest(codes.encode(codes.table), ranks, budgets, seed)
    error = forest.error(codes.encode(codes.table))
    rng = np.random.default_rng(seed)
    found = []
    for column in codes.varied:
        falls = [(forest.error(codes.encode(codes.shuffle(column, rng))) - error) / variance for _ in range(_SHUFFLES)]
        mattered = int(np.isfinite(codes.table[:, column]).sum())
        parameter = space.parameters[column]
        only = parameter.conditions if len(space.variants(parameter.name)) > 1 else ""
        found.append(Importance(parameter.name, float(np.mean(falls)), float(np.std(falls, ddof=1)), mattered, only))
    found.sort(key=lambda one: -one.value)
    return Importances(tuple(found), 1 - error / variance, count)


class Codes:
    """Configurations as numbers: of a choice its place, of a range the value or its logarithm, NaN where inactive."""

    def __init__(self, space: Space, values: Sequence[Mapping[str, Any]]):
        self.parameters, self._space = space.parameters, space
        self.places = {space.keys[parameter]: column for column, parameter in enumerate(space.parameters)}
        self.table = np.full((len(values), len(space.parameters)), np.nan)
        for row, chosen in enumerate(values):
            for parameter in space.active(chosen):
                if parameter.name in chosen:
                    self.table[row, self.places[space.keys[parameter]]] = _code(parameter, chosen[parameter.name])
        known = [column[np.isfinite(column)] for column in self.table.T]
        self.varied = [number for number, codes in enumerate(known) if len(np.unique(codes)) > 1]
        self._inactive = [2 * codes.min() - codes.max() - 1 if len(codes) else 0.0 for codes in known]

    def encode(self, table: np.ndarray) -> np.ndarray:
        """Variables for the forest, float32: what has an order as it is, else a variable a value; inactive is below all
        values, or none of them."""
        columns = []
        for number, parameter in enumerate(self.parameters):
            codes = table[:, number]
            if _ordered(parameter):
                columns.append(np.where(np.isnan(codes), self._inactive[number], codes)[:, None])
            else:
                columns.append(codes[:, None] == np.arange(len(parameter.values)))
        return np.concatenate(columns, axis=1, dtype=np.float32)

    def shuffle(self, column: int, rng: np.random.Generator) -> np.ndarray:
        """The table with one hyperparameter shuffled among the rows that have it, and what depends on it made right."""
        table = self.table.copy()
        rows = np.flatnonzero(np.isfinite(table[:, column]))
        table[rows, column] = table[rng.permutation(rows), column]
        changed = {self.parameters[column].name}
        for number, parameter in enumerate(self.parameters):
            if not changed & {name for name, _ in parameter.when}:
                continue
            changed.add(parameter.name)
            active = np.ones(len(table), bool)
            for place, (_, allowed) in enumerate(parameter.when):
                parent = self.places[self._space.keys[self._space.parent(parameter, place)]]
                active &= np.isin(table[:, parent], [_code(self.parameters[parent], value) for value in allowed])
            own = self.table[:, number]
            known = own[np.isfinite(own)]
            if len(known):
                drawn = rng.choice(known, len(table))
                table[:, number] = np.where(active, np.where(np.isnan(own), drawn, own), np.nan)
        return table


class _Forest:
    """A random forest that is asked about each trial only by the trees that were not shown it."""

    def __init__(self, variables: np.ndarray, ranks: np.ndarray, budgets: np.ndarray, seed: int):
        from sklearn.ensemble import RandomForestRegressor

        self._ranks, self._budgets = ranks, np.log2(budgets)[:, None].astype(np.float32)
        forest = RandomForestRegressor(_TREES, max_features=0.5, min_samples_leaf=2, random_state=seed)
        forest.fit(np.hstack([variables, self._budgets]), ranks)
        self._trees = []
        for tree, shown in zip(forest.estimators_, forest.estimators_samples_, strict=True):
            unseen = np.setdiff1d(np.arange(len(ranks)), shown)
            if len(unseen):
                self._trees.append((tree.tree_, unseen))

    def error(self, variables: np.ndarray) -> float:
        """Mean squared error out of bag; the epochs stay as they are."""
        variables = np.hstack([variables, self._budgets])
        total, count = np.zeros(len(self._ranks)), np.zeros(len(self._ranks))
        for tree, unseen in self._trees:
            total[unseen] += tree.predict(variables[unseen])[:, 0]
            count[unseen] += 1
        asked = count > 0
        return float(((total[asked] / count[asked] - self._ranks[asked]) ** 2).mean())


def _ordered(parameter: Parameter) -> bool:
    """Whether more and less have a meaning; what has two values at most needs no variable for each."""
    return not parameter.values or len(parameter.values) == 2 or not isinstance(parameter.values[0], (str, bool))


def _code(parameter: Parameter, value: Any) -> float:
    if not parameter.values:
        return math.log(value) if parameter.log else float(value)
    known = parameter.values if isinstance(parameter.values[0], str) else sorted(parameter.values)
    return float(next((place for place, other in enumerate(known) if other == value), len(known)))


def _ranks(scores: np.ndarray) -> np.ndarray:
    """In (0, 1); the same scores have the same rank, the middle of theirs."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return ((np.cumsum(counts) - counts / 2) / len(scores))[inverse]

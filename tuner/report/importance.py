"""Importance of the hyperparameters: permutation importance of a random forest (Breiman 2001) fitted to the scores.

- The forest is fitted to ranks, not scores: one diverged trial has a loss a thousand times that of the others, and
  would decide all splits. Ranks do not depend on the scale.
- Importances are measured out of bag, by the trees that have not seen a configuration: what the forest merely
  memorised counts for nothing.
- Trials of few epochs have low scores, and under Hyperband good configurations get more epochs. Therefore only the
  first trial of a configuration counts, because its epochs were chosen before anything was known of it. Epochs are a
  variable of the forest beside the hyperparameters, and what they explain alone counts for nothing. A pruned trial
  keeps its score: it was pruned because of what it was.
- An inactive hyperparameter (such as the rate of SGD in a trial with Adam) gets a random one of the values that other
  trials had. So it tells the forest nothing, every permuted row is a configuration that the search might have tried,
  and the rate of SGD gets no credit for the choice of SGD.
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
"""With fewer, no importances are given: any order would be chance."""
LOW_R2 = 0.3
"""Below this R2 of the forest, its importances come with a warning."""
_TREES = 200
_SHUFFLES = 10
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Importance:
    """Of one hyperparameter.

    Attributes:
      name: of the hyperparameter.
      only: the condition, where several hyperparameters have that name; else empty.
      value: how much the forest's R2 falls when it is shuffled; 0 or below is no importance.
      spread: standard deviation of that over the shuffles.
      trials: number of trials in which it was active.
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
    """Of all hyperparameters that differ between trials.

    Attributes:
      ranked: the most important first; empty if unknown.
      r2: share of the variance of the ranks, among trials of equal epochs, that the forest explains of trials that it
        has not seen (out of bag); below 0 if it does worse than their mean. None if nothing was fitted.
      configurations: number that the forest was fitted to.
      reason: why there are no importances, else empty.
    """

    ranked: tuple[Importance, ...] = ()
    r2: float | None = None
    configurations: int = 0
    reason: str = ""

    @property
    def names(self) -> list[str]:
        """Hyperparameters whose importance exceeds twice its spread, and 0.01; the most important first."""
        if self.r2 is None or self.r2 <= 0:
            return []
        return list(dict.fromkeys(one.name for one in self.ranked if one.value > max(2 * one.spread, 0.01)))

    @property
    def caution(self) -> str:
        """How far to trust them, as a sentence; empty if there is nothing to warn of."""
        if self.r2 is None or self.r2 >= LOW_R2:
            return ""
        what = "nothing" if self.r2 <= 0 else f"only {100 * self.r2:.0f} %"
        return (
            f"From {self.configurations} configurations the forest predicts {what} of the order of trials that it has "
            f"not seen (out-of-bag R2 {self.r2:.2f}), so these importances mean little. More trials would help"
        )


def hyperparameter_importance(search: SearchResult) -> Importances:
    """Importance of the hyperparameters of a search as it stands; see the module's docstring."""
    space = search.space
    first: dict[str, TrialResult] = {}
    for trial in search.trials:
        if trial.scored:
            first.setdefault(json.dumps(space.active_values(trial.values), sort_keys=True), trial)
    trials = list(first.values())
    given = [1 if "preset" in trial.values else trial.epochs for trial in trials]  # a preset's epochs are part of it
    return importances(space, [trial.values for trial in trials], [trial.value for trial in trials], given)


def importances(
    space: Space, values: Sequence[Mapping[str, Any]], scores: Sequence[float], epochs: Sequence[int] | None = None
) -> Importances:
    """Importance of hyperparameters for scores.

    Args:
      space: that the values are of.
      values: hyperparameters by name, one mapping a configuration; all different.
      scores: one a configuration; finite. The direction does not matter.
      epochs: given to each; None if the same.
    """
    from scipy.stats import rankdata

    count = len(scores)
    if count < LEAST_CONFIGURATIONS:
        least = f"importances need the scores of at least {LEAST_CONFIGURATIONS} different configurations"
        return Importances(configurations=count, reason=f"{least}, and there are {count or 'none'}")
    ranks = (rankdata(scores) - 0.5) / count  # in (0, 1); equal scores have the middle of their ranks
    budgets = np.asarray(epochs if epochs is not None else [1] * count, float)
    expected = np.zeros(count)
    for budget in np.unique(budgets):
        expected[budgets == budget] = ranks[budgets == budget].mean()
    variance = float(((ranks - expected) ** 2).mean())
    if variance < 1e-12:
        return Importances(configurations=count, reason="all trials have the same score, so nothing made a difference")
    table = encode(space, values)
    varied = [column for column, codes in enumerate(table.T) if len(np.unique(codes[np.isfinite(codes)])) > 1]
    if not varied:
        return Importances(configurations=count, reason="no hyperparameter differs between the trials")
    filled = fill_inactive(table[:, varied], np.random.default_rng(_SEED))
    choices = []
    for number, column in enumerate(varied):
        values_of = space.parameters[column].values
        if len(values_of) > 2 and isinstance(values_of[0], str):  # two values need no order
            choices.append(number)
    losses, r2 = _permutation_losses(np.column_stack([filled, np.log2(budgets)]), ranks, variance, choices)
    active = np.isfinite(table[:, varied]).sum(axis=0)
    found = []
    for column, loss, trials in zip(varied, losses, active, strict=False):  # the last loss is that of the epochs
        parameter = space.parameters[column]
        only = parameter.conditions if len(space.variants(parameter.name)) > 1 else ""
        found.append(Importance(parameter.name, float(loss.mean()), float(loss.std(ddof=1)), int(trials), only))
    return Importances(tuple(sorted(found, key=lambda one: -one.value)), r2, count)


def encode(space: Space, values: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Configurations as numbers: the index of a choice, the value of a range or its logarithm, NaN if inactive.

    Returns:
      float64 [configurations, parameters of the space].
    """
    table = np.full((len(values), len(space.parameters)), np.nan)
    for row, chosen in enumerate(values):
        for column, parameter in enumerate(space.parameters):
            if parameter.name in chosen and parameter.matters(chosen):
                table[row, column] = _code(parameter, chosen[parameter.name])
    return table


def fill_inactive(table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The table with each NaN replaced by a random value of its column."""
    filled = table.copy()
    for column in filled.T:
        inactive = np.isnan(column)
        column[inactive] = rng.choice(column[~inactive], inactive.sum())
    return filled


def _permutation_losses(
    variables: np.ndarray, ranks: np.ndarray, variance: float, choices: Sequence[int]
) -> tuple[np.ndarray, float]:
    """Loss of out-of-bag R2 by variable and shuffle, float [variables, shuffles]; and that R2.

    Args:
      variables: float [configurations, variables].
      ranks, variance: float [configurations], and how much of it is to be explained.
      choices: columns without an order, which the forest sees as one column of 0 and 1 for each value.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    values = {column: np.unique(variables[:, column]) for column in choices}

    def expand(table: np.ndarray) -> np.ndarray:
        columns = np.split(table, table.shape[1], axis=1)
        parts = [column == values[number] if number in values else column for number, column in enumerate(columns)]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    class OutOfBag(RandomForestRegressor):
        """Predicts each row of the training data by the trees that have not seen it."""

        def fit(self, variables: np.ndarray, ranks: np.ndarray) -> OutOfBag:
            super().fit(expand(variables), ranks)
            rows = np.arange(len(ranks))
            self.unseen = [np.setdiff1d(rows, seen) for seen in self.estimators_samples_]
            return self

        def predict(self, variables: np.ndarray) -> np.ndarray:
            variables = expand(variables)
            total, count = np.zeros(len(variables)), np.zeros(len(variables))
            for tree, unseen in zip(self.estimators_, self.unseen, strict=True):
                total[unseen] += tree.tree_.predict(variables[unseen])[:, 0]
                count[unseen] += 1
            return total / np.maximum(count, 1)

    def r2(forest: OutOfBag, variables: np.ndarray, ranks: np.ndarray) -> float:
        return 1 - float(((forest.predict(variables) - ranks) ** 2).mean()) / variance

    forest = OutOfBag(_TREES, min_samples_leaf=2, random_state=_SEED).fit(variables, ranks)
    found = permutation_importance(forest, variables, ranks, scoring=r2, n_repeats=_SHUFFLES, random_state=_SEED)
    return found.importances, r2(forest, variables, ranks)


def _code(parameter: Parameter, value: Any) -> float:
    if not parameter.values:
        return math.log(value) if parameter.log else float(value)
    known = parameter.values if isinstance(parameter.values[0], str) else sorted(parameter.values)
    return float(next((place for place, other in enumerate(known) if other == value), len(known)))

"""What mattered, where it is known what did; and which trials are not beaten."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tuner.report.importance import LEAST_CONFIGURATIONS, LOW_R2, encode, fill_inactive, importances
from tuner.report.search_plots import pareto_front
from tuner.space.parameter import Parameter
from tuner.space.space import Space

SPACE = Space(
    "small",
    (
        Parameter("optimizer", values=("adam", "sgd", "rmsprop")),
        Parameter("learning_rate", low=1e-4, high=1e-2, log=True, when=(("optimizer", ("adam", "rmsprop")),)),
        Parameter("learning_rate", low=1e-3, high=1e-1, log=True, when=(("optimizer", ("sgd",)),)),
        Parameter("augment", values=("none", "light", "strong")),
        Parameter("batch_size", values=(16, 32, 64)),
        Parameter("equalize", values=(False, True)),
        Parameter("dropout", low=0.0, high=0.6, step=0.1),
    ),
)


def draw(count, seed=0, space=SPACE):
    """Configurations at random, each with the values that matter to it."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        values = {}
        for parameter in space.parameters:
            if parameter in space.active(values):
                if parameter.values:
                    values[parameter.name] = parameter.values[rng.integers(len(parameter.values))]
                elif parameter.log:
                    values[parameter.name] = float(np.exp(rng.uniform(*np.log([parameter.low, parameter.high]))))
                else:
                    values[parameter.name] = float(rng.uniform(parameter.low, parameter.high))
        drawn.append(values)
    return drawn


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("dropout", lambda v: -v["dropout"]),
        ("augment", lambda v: ("light", "strong", "none").index(v["augment"])),
        ("batch_size", lambda v: -abs(v["batch_size"] - 32)),
        ("optimizer", lambda v: v["optimizer"] == "sgd"),
    ],
)
def test_what_the_score_depends_on_comes_first(name, score):
    values = draw(60)
    rng = np.random.default_rng(1)
    found = importances(SPACE, values, [score(v) + rng.normal(0, 0.05) for v in values])
    assert found.names[0] == name
    assert found.ranked[0].value > 5 * max(one.value for one in found.ranked[1:])
    assert found.r2 > 0.5 and not found.caution
    assert {one.name for one in found.ranked} == {parameter.name for parameter in SPACE.parameters}


def test_a_conditional_one_is_told_from_what_it_depends_on():
    values = draw(150)

    def rate(v):
        return abs(math.log10(v["learning_rate"] / (10 if v["optimizer"] == "sgd" else 1)) + 3)

    found = importances(SPACE, values, [-rate(v) for v in values])
    by_label = {one.label: one for one in found.ranked}
    adam, sgd = "learning_rate (optimizer: adam, rmsprop)", "learning_rate (optimizer: sgd)"
    assert found.ranked[0].label == adam and found.names[0] == "learning_rate"
    assert len(set(found.names)) == len(found.names)
    others = set(by_label) - {adam, sgd, "optimizer"}
    assert by_label[sgd].value > 0.1 > 0.05 > max(by_label[label].value for label in others)
    assert by_label[sgd].trials == sum(v["optimizer"] == "sgd" for v in values)
    assert by_label[adam].trials + by_label[sgd].trials == len(values)
    flat = importances(SPACE, values, [v["optimizer"] == "sgd" for v in values])
    rates = [one.value for one in flat.ranked if one.name == "learning_rate"]
    assert flat.names[0] == "optimizer" and max(rates) < 0.02


def test_one_that_matters_in_few_trials_counts_for_less():
    values = draw(150)
    where = [v for v in values if v["optimizer"] == "sgd"]
    score = [math.log10(v["learning_rate"]) if v in where else -2.0 for v in values]
    found = importances(SPACE, values, score)
    by_label = {one.label: one.value for one in found.ranked}
    assert by_label["learning_rate (optimizer: sgd)"] > 0.1
    assert by_label["learning_rate (optimizer: adam, rmsprop)"] < 0.02 < by_label["optimizer"]


def test_inactive_values_are_replaced_by_values_of_other_trials():
    values = draw(60)
    table = encode(SPACE, values)
    filled = fill_inactive(table, np.random.default_rng(0))
    active = np.isfinite(table)
    np.testing.assert_array_equal(active[:, 1], [v["optimizer"] != "sgd" for v in values])
    np.testing.assert_array_equal(filled[active], table[active])
    assert all(set(new) == set(old[np.isfinite(old)]) for new, old in zip(filled.T, table.T, strict=True))


def test_noise_is_called_noise():
    values = draw(80)
    found = importances(SPACE, values, np.random.default_rng(3).normal(size=80))
    assert found.r2 < LOW_R2
    assert "mean little" in found.caution
    assert found.names == []


def test_epochs_take_their_own_share():
    values = draw(80)
    rng = np.random.default_rng(0)
    epochs = rng.choice([1, 3, 9], 80)
    scores = [0.3 * math.log(e) + 0.3 * v["dropout"] + rng.normal(0, 0.01) for e, v in zip(epochs, values, strict=True)]
    blind, aware = importances(SPACE, values, scores), importances(SPACE, values, scores, epochs)
    assert aware.names[0] == "dropout"
    assert aware.r2 > 0.3 > blind.r2
    noise = importances(SPACE, values, [0.3 * math.log(e) + rng.normal(0, 0.01) for e in epochs], epochs)
    assert noise.r2 < LOW_R2  # what epochs explain is no merit of the hyperparameters


def test_the_same_every_time_and_for_any_scale():
    values = draw(40)
    scores = np.array([v["dropout"] + v["equalize"] for v in values])
    first = importances(SPACE, values, scores)
    assert importances(SPACE, values, scores) == first
    assert importances(SPACE, values, np.exp(9 * scores)) == first  # as one that diverged


def test_too_few_trials_have_none():
    values = draw(LEAST_CONFIGURATIONS)
    scores = [v["dropout"] for v in values]
    assert importances(SPACE, values, scores).ranked
    few = importances(SPACE, values[:-1], scores[:-1])
    assert not few.ranked and few.r2 is None and f"there are {LEAST_CONFIGURATIONS - 1}" in few.reason
    assert not few.caution and few.names == []
    assert "there are none" in importances(SPACE, [], []).reason


def test_the_same_score_or_configuration_everywhere_says_nothing():
    same = importances(SPACE, draw(1) * 20, list(range(20)))
    assert not same.ranked and "no hyperparameter differs" in same.reason
    found = importances(SPACE, draw(20), [0.5] * 20)
    assert not found.ranked and "same score" in found.reason
    only_epochs = importances(SPACE, draw(20), [0.5] * 10 + [0.7] * 10, [1] * 10 + [3] * 10)
    assert not only_epochs.ranked and "same score" in only_epochs.reason


def test_what_never_differs_is_not_ranked():
    values = [{**v, "equalize": True} for v in draw(40)]
    found = importances(SPACE, values, [v["dropout"] for v in values])
    assert "equalize" not in {one.name for one in found.ranked}


def dominated(score, cost, others):
    """By the definition: somebody is no worse in both and better in one."""
    return any(s >= score and c <= cost and (s > score or c < cost) for s, c in others)


@pytest.mark.parametrize("levels", [3, 10, 1000])
def test_pareto_front_by_its_definition(levels):
    rng = np.random.default_rng(levels)
    for size in [*range(8), 50] * 30:
        scores, costs = rng.integers(levels, size=(2, size)).tolist()
        points = list(zip(scores, costs, strict=True))
        expected = {index for index, point in enumerate(points) if not dominated(*point, points)}
        front = pareto_front(scores, costs)
        assert set(front) == expected and len(front) == len(expected)
        assert [costs[index] for index in front] == sorted(costs[index] for index in front)
        assert set(pareto_front([-score for score in scores], costs, "min")) == expected


def test_pareto_front_keeps_ties_together():
    assert pareto_front([0.9, 0.9, 0.8, 0.9], [5, 5, 5, 6]) == [0, 1]
    assert pareto_front([], []) == []

"""When a trial is stopped on the way."""

import pytest

from tuner.cluster.pruning import LEAST_TRIALS, why_prune

PEERS = [[0.5, 0.6, 0.7, 0.8], [0.6, 0.7, 0.8, 0.9], [0.4, 0.5, 0.6, 0.7], [0.5, 0.7, 0.8, 0.9], [0.6, 0.6, 0.7, 0.7]]


both = pytest.mark.parametrize("pruner", ["median", "halving"])


@both
def test_the_worst_is_stopped_and_the_best_goes_on(pruner):
    assert "0.31" in why_prune(pruner, [0.3, 0.31], PEERS, "max")
    assert why_prune(pruner, [0.8, 0.9], PEERS, "max") is None


@both
def test_less_is_better_where_the_direction_says_so(pruner):
    negated = [[-value for value in peer] for peer in PEERS]
    for own in ([0.3, 0.31], [0.8, 0.9], [0.55, 0.66], [0.5, 0.5]):
        up = why_prune(pruner, own, PEERS, "max")
        down = why_prune(pruner, [-value for value in own], negated, "min")
        assert (up is None) == (down is None)


def test_none_never_stops():
    assert why_prune("none", [0.0, 0.0], PEERS, "max") is None


@both
def test_nothing_is_stopped_in_its_first_epoch_or_with_too_few_to_compare(pruner):
    assert why_prune(pruner, [0.0], PEERS, "max") is None
    assert why_prune(pruner, [0.0, 0.0], PEERS[: LEAST_TRIALS - 1], "max") is None
    short = [peer[:1] for peer in PEERS]  # these have not come as far
    assert why_prune(pruner, [0.0, 0.0], short, "max") is None


def test_the_median_compares_the_best_so_far_with_mean_values_up_to_the_same_epoch():
    # means of the first two epochs: .55 .65 .45 .60 .60, median .60; what came later does not count
    assert why_prune("median", [0.61, 0.2], PEERS, "max") is None
    assert "0.6000" in why_prune("median", [0.59, 0.2], PEERS, "max")


def test_halving_looks_only_at_its_rungs():
    peers = [[value] * 8 for value in (0.5, 0.6, 0.7, 0.8, 0.9)]
    assert [epoch for epoch in range(1, 8) if why_prune("halving", [0.1] * epoch, peers, "max", factor=3)] == [2, 6]


@pytest.mark.parametrize("factor, kept", [(2, 3), (3, 2), (6, 1)])
def test_halving_keeps_its_share(factor, kept):
    values = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    peers = [[value] * 2 for value in values]
    others = {value: [peer for peer in peers if peer != [value] * 2] for value in values}
    going_on = [value for value in values if not why_prune("halving", [value] * 2, others[value], "max", factor)]
    assert going_on == list(values[-kept:])


@both
def test_what_is_not_a_number_is_the_worst(pruner):
    nan = float("nan")
    assert why_prune(pruner, [nan, nan], PEERS, "max")
    assert why_prune(pruner, [0.7, 0.8], [[nan, nan]] * 5, "max") is None

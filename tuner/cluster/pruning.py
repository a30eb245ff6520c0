"""Stops a trial early when others with as many epochs did better at the same point."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

LEAST_TRIALS = 5
"""Other trials that must have as many epochs before anything is pruned."""
FIRST_EPOCH = 2
"""Epochs that every trial gets."""


def why_prune(
    pruner: Literal["median", "halving", "none"],
    own: Sequence[float],
    others: Sequence[Sequence[float]],
    direction: str,
    factor: int = 3,
) -> str | None:
    """Why a trial should be stopped after the epoch that it has just finished; None where it should continue.

    Args:
      pruner: `median`: its best value so far is worse than the median over the others of their mean value up to
        the same epoch (Golovin et al. 2017, "Google Vizier", section 3.2.2). `halving`: at epochs 2, 2 x factor,
        2 x factor^2, ... it must be among the best 1/factor of all that have got that far (Li et al. 2020, "A System
        for Massively Parallel Hyperparameter Tuning", which promotes as results come in and does not wait for all).
      own: its value at each epoch, at least one; a value that is not a number is the worst.
      others: those of other trials that were given as many epochs.
      direction: `max` or `min`: whether more is better, or less.
      factor: of `halving`, at least 2.
    """
    epoch = len(own)
    if pruner == "none" or epoch < FIRST_EPOCH:
        return None
    sign = 1.0 if direction == "max" else -1.0
    mine = [_worst_if_nan(sign * value) for value in own]
    theirs = [[_worst_if_nan(sign * value) for value in other[:epoch]] for other in others if len(other) >= epoch]
    if len(theirs) < LEAST_TRIALS:
        return None
    best = max(mine)
    if pruner == "median":
        median = statistics.median(statistics.fmean(values) for values in theirs)
        shown = f"{sign * best:.4f}, was worse than the others' median, {sign * median:.4f}"
        return f"after epoch {epoch} its best, {shown}" if best < median else None
    rung = FIRST_EPOCH
    while rung < epoch:
        rung *= factor
    peers = sorted([best, *(max(values) for values in theirs)], reverse=True)
    kept = max(1, len(peers) // factor)
    if rung != epoch or best >= peers[kept - 1]:
        return None
    shown = f"{sign * best:.4f}, was not in the best {kept} of {len(peers)}"
    return f"at epoch {epoch} its best, {shown}, which begin at {sign * peers[kept - 1]:.4f}"


def _worst_if_nan(value: float) -> float:
    return value if value == value else float("-inf")

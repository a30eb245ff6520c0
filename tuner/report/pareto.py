"""The trials that no other beats in both of two respects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np


def pareto_front(
    scores: Sequence[float], costs: Sequence[float], direction: Literal["max", "min"] = "max"
) -> list[int]:
    """Indices of the points that no other dominates, the cheapest first; points of equal cost in the given order.

    A point dominates another if it is no worse in both respects and better in one, so equal points stay or go together.

    Args:
      scores: one a point, finite.
      costs: one a point, finite; less is better. If more is better, pass the negative.
      direction: which way a score is better.
    """
    gain = np.asarray(scores, float).reshape(-1) * (1 if direction == "max" else -1)
    cost = np.asarray(costs, float).reshape(-1)
    beaten = [((gain >= g) & (cost <= c) & ((gain > g) | (cost < c))).any() for g, c in zip(gain, cost, strict=True)]
    return [int(index) for index in np.argsort(cost, kind="stable") if not beaten[index]]

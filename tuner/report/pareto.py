"""The trials that no other beats in both of two respects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from cxr.errors import InputError


def pareto_front(
    scores: Sequence[float], costs: Sequence[float], direction: Literal["max", "min"] = "max"
) -> list[int]:
    """Indices of the points that no other dominates, the cheapest first; points of equal cost in the given order.

    A point dominates another if it is no worse in both respects and better in one, so equal points stay or go together.

    Args:
      scores: one a point.
      costs: one a point; less is better. If more is better, pass the negative.
      direction: which way a score is better.

    Raises:
      InputError: the numbers of costs and scores differ, or one is not finite.
    """
    gain = np.asarray(scores, float).reshape(-1) * (1 if direction == "max" else -1)
    cost = np.asarray(costs, float).reshape(-1)
    if len(gain) != len(cost) or not (np.isfinite(gain).all() and np.isfinite(cost).all()):
        raise InputError(
            f"expected as many finite costs as finite scores, received {len(cost)} costs and {len(gain)} scores: "
            "leave out the trials that lack either"
        )
    beaten = [((gain >= g) & (cost <= c) & ((gain > g) | (cost < c))).any() for g, c in zip(gain, cost, strict=True)]
    return [int(index) for index in np.argsort(cost, kind="stable") if not beaten[index]]

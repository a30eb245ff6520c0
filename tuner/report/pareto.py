"""Which trials are not beaten in both of two respects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from cxr.errors import InputError


def pareto_front(
    scores: Sequence[float], costs: Sequence[float], direction: Literal["max", "min"] = "max"
) -> list[int]:
    """Indices of the points that no other dominates, the cheapest first; of the same cost in the order given.

    A point dominates another when it is no worse in both respects and better in one, so points that are equal in both
    stay or go together.

    Args:
      scores: one a point.
      costs: one a point; less is better. Of what is better when there is more, give the negative.
      direction: which way a score is better.

    Raises:
      InputError: not as many costs as scores, or one that is no finite number.
    """
    gain = np.asarray(scores, float).reshape(-1) * (1 if direction == "max" else -1)
    cost = np.asarray(costs, float).reshape(-1)
    if len(gain) != len(cost) or not (np.isfinite(gain).all() and np.isfinite(cost).all()):
        raise InputError(
            f"expected as many finite costs as finite scores, received {len(cost)} costs and {len(gain)} scores: "
            "leave out the trials that lack either"
        )
    front: list[int] = []
    best, best_cost = -np.inf, -np.inf
    for index in np.lexsort((np.arange(len(cost)), -gain, cost)):
        if gain[index] > best:
            best, best_cost = gain[index], cost[index]
            front.append(int(index))
        elif gain[index] == best and cost[index] == best_cost:
            front.append(int(index))
    return front

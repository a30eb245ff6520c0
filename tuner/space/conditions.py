"""When hyperparameters matter: conditions on others, checked, and settled once values are chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from cxr.errors import InputError
from tuner.space.parameter import Parameter


def check_condition(parameter: Parameter, place: int, earlier: Sequence[Parameter]) -> None:
    """Raises InputError unless one of a parameter's conditions can hold."""
    name, values = parameter.when[place]
    same = [other for other in earlier if other.name == name]
    if not same:
        raise InputError(f"hyperparameter '{parameter.name}' depends on '{name}', which does not come before it")
    parent = parent_of(parameter, place, same)
    if parent is None:
        raise InputError(f"the conditions of '{parameter.name}' must begin with those of '{name}', which it depends on")
    if not set(values) <= set(parent.values) or not values:
        raise InputError(f"'{parameter.name}' depends on {name}={list(values)}; it may be {parent.shown}")


def parent_of(parameter: Parameter, place: int, among: Sequence[Parameter]) -> Parameter | None:
    """The one of the parameters that a condition of another is about."""
    name, when = parameter.when[place][0], parameter.when[:place]
    return next((other for other in among if other.name == name and other.when == when), None)


def exclusive(one: Parameter, other: Parameter) -> bool:
    """Whether two parameters have different names, or conditions that never hold together."""
    return one.name != other.name or any(
        name == same and not set(values) & set(others) for name, values in one.when for same, others in other.when
    )


def settle(
    parameters: Sequence[Parameter], name: str, values: Sequence[Any], only: Parameter | None = None
) -> list[Parameter]:
    """Parameters where those of a name, or only one of them, have these values left.

    Conditions that always hold are dropped, and parameters whose conditions can no longer hold.
    """
    kept: list[Parameter] = []
    for parameter in parameters:
        when = []
        for place, (parent, allowed) in enumerate(parameter.when):
            about = parent == name and (only is None or parent_of(parameter, place, [only]))
            left = tuple(value for value in allowed if value in values) if about else allowed
            if not about or len(left) < len(values):
                when.append((parent, left))
        if all(left for _, left in when):
            kept.append(dataclasses.replace(parameter, when=tuple(when)))
    return kept


def count_combinations(parameters: Sequence[Parameter]) -> int | None:
    """Number of configurations; None where a continuous range makes it infinite."""
    if not parameters:
        return 1
    first, rest = parameters[0], parameters[1:]
    if any(name == first.name for other in rest for name, _ in other.when):
        counts = [count_combinations(settle(rest, first.name, (value,))) for value in first.values]
        return None if None in counts else sum(count for count in counts if count)
    count = count_combinations(rest)
    return None if count is None or first.count is None else first.count * count

"""Ranges of options, checked."""

from __future__ import annotations

import math

from cxr.errors import InputError


def check_range(name: str, value: float, *, least: float = 0.0, above: float | None = None, most: float) -> float:
    """The value, where it lies between the bounds; `above`, which stands instead of `least`, is no longer allowed.

    Raises:
      InputError: it does not.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        enough = value > above if above is not None else value >= least
        if enough and value <= most:
            return value
    lowest = f"above {above:g}" if above is not None else f"at least {least:g}"
    raise InputError(f"{name} must be a number {lowest} and at most {most:g}; received {value!r}")

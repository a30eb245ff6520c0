"""Optional dependencies: what each extra of `pip install` brings, and one look for what is missing."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

from cxr.errors import MissingExtraError

MODULES = {
    "beam": ("apache_beam", "sklearn"),
    "train": ("tensorflow", "keras", "numba", "sklearn", "matplotlib"),
    "tune": ("tensorflow", "keras", "numba", "sklearn", "matplotlib", "keras_tuner", "grpc", "rich"),
    "report": ("sklearn", "matplotlib", "tabulate"),
    "stream": ("tensorflow", "numba"),
    "board": ("tensorboard",),
}
"""Modules that a command of each kind cannot do without."""
_EXTRA_OF = {"report": "tune", "stream": "train", "board": "train"}


def require(purpose: str, need: str) -> None:
    """Makes sure, without importing anything, that what a command needs is installed.

    Args:
      purpose: what for, as the beginning of a sentence.
      need: a key of `MODULES`.

    Raises:
      MissingExtraError: a module is missing; says how to install it.
    """
    for module in MODULES[need]:
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(purpose, module.replace("_", "-"), _EXTRA_OF.get(need, need))


@contextlib.contextmanager
def needing(purpose: str, extra: str) -> Iterator[None]:
    """Turns a module that is not found into MissingExtraError, which says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(purpose, error.name or "?", extra) from error

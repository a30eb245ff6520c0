"""Where training stands, in one file that is replaced atomically.

It holds every variable of the model, the optimizer and the metrics, bit for bit (the states of random generators
and loss scales are among them), and what the training loop knows besides. Keras's own formats leave out metrics
and random generators, without which a resumed run is not the run that was stopped.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cxr.errors import DatasetError, OutputError
from cxr.files import open_replacing

_STATE = "state"


def variables_of(model: keras.Model) -> dict[str, Any]:
    """All variables of a compiled and built model by a name that is stable over processes.

    Paths alone do not do: they count layers per process. The order is that of construction.
    """
    groups = {"model": model.variables, "optimizer": model.optimizer.variables, "metric": model.metrics_variables}
    return {f"{group}/{index}": item for group, items in groups.items() for index, item in enumerate(items)}


def value_of(variable: Any) -> np.ndarray:
    """A copy of a variable's value, also where a distribution strategy has one on each device."""
    return np.array(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable)))


def save_checkpoint(path: Path, model: keras.Model, state: dict[str, Any]) -> None:
    """Writes everything that training needs to go on, of a compiled model with its optimizer built.

    `state` are values that JSON has. Raises OutputError where it cannot be written; a checkpoint that was there before
    still is.
    """
    arrays = {name: value_of(item) for name, item in variables_of(model).items()}
    arrays[_STATE] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    try:
        with open_replacing(path, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise OutputError(
            f"the checkpoint {path} cannot be written: {error.strerror or error}; the one before it is kept"
        ) from error


def read_state(path: Path) -> dict[str, Any]:
    """What the training loop stored; raises DatasetError where the file is missing or damaged."""
    with _opened(path) as arrays:
        return json.loads(arrays[_STATE].tobytes())


def restore_checkpoint(path: Path, model: keras.Model, only_model: bool = False) -> None:
    """Puts back every variable of a model that was built and compiled as the one that was saved.

    With `only_model` the optimizer and the metrics stay as they are, and need not be the same. Raises DatasetError
    where the file is missing, damaged, or of another model.
    """
    with _opened(path) as arrays:
        group = "model/" if only_model else ""
        variables = {name: item for name, item in variables_of(model).items() if name.startswith(group)}
        stored = {name for name in arrays.files if name.startswith(group)} - {_STATE}
        if stored != set(variables):
            raise DatasetError(f"{path} holds {len(stored)} variables, the model has {len(variables)}: another model's")
        for name, item in variables.items():
            if arrays[name].shape != tuple(item.shape):
                raise DatasetError(f"{path}: {item.path} has shape {arrays[name].shape}, not {tuple(item.shape)}")
            item.assign(arrays[name])


@contextlib.contextmanager
def _opened(path: Path):
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except FileNotFoundError as error:
        raise DatasetError(f"there is no checkpoint {path}") from error
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise DatasetError(f"the checkpoint {path} is damaged: {error}. Start anew with --overwrite") from error

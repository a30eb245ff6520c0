"""Loading a file of pretrained weights, and saying what is wrong with one that does not fit."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import h5py
import keras

from cxr.errors import InputError
from trainer.models.layers import leaf_layers

SUFFIXES = (".weights.h5", ".h5", ".keras")

Shapes = dict[str, list[tuple[int, ...]]]
"""Of the weights of each layer, by its name, in the order of the layers."""


def load_weights(name: str, model: keras.Model, path: Path) -> None:
    """Loads a file of Keras (`.weights.h5`, `.keras`, or the older `.h5`) into a model without its classifier.

    Raises InputError, with the name of the model, where there is no such file, it is damaged or not of Keras, or it is
    of another model.
    """
    if not path.is_file():
        raise InputError(f"weights '{path}': there is no such file. Expected 'none', 'imagenet' or the path of one")
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"weights '{path}': not a Keras weights file; expected one of {', '.join(SUFFIXES)}")
    old = path.suffix == ".h5" and not path.name.endswith(".weights.h5")
    try:
        found, found_old = _shapes_in_file(path)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"weights '{path}': damaged, or not a Keras weights file: {error}") from error
    if found_old != old:
        better = ".h5" if found_old else ".weights.h5"
        raise InputError(f"weights '{path}': what is in it belongs in a file that is named *{better}; rename it")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Skipping nested container")  # layers would keep their random weights
            model.load_weights(path)
    except (ValueError, KeyError, UserWarning) as error:
        fault = _first_difference(_shapes_of(model, old), found) or str(error).partition("\n")[0]
        raise InputError(f"weights '{path}' do not fit model '{name}' without its classifier: {fault}") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"weights '{path}': damaged: {error}") from error


def _shapes_in_file(path: Path) -> tuple[Shapes, bool]:
    """What a file holds, and whether it is of Keras's older format."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            return _new_shapes(file), False
    with h5py.File(path) as file:
        group = file if "layer_names" in file.attrs else file.get("model_weights")
        if group is not None:
            return _old_shapes(group), True
        return _new_shapes(file), False


def _old_shapes(group: h5py.Group) -> Shapes:
    shapes: Shapes = {}
    for layer in group.attrs["layer_names"]:
        layer = layer.decode() if isinstance(layer, bytes) else layer
        weights = [group[layer][name].shape for name in group[layer].attrs["weight_names"]]
        if weights:
            shapes[layer] = weights
    return shapes


def _new_shapes(file: h5py.File) -> Shapes:
    shapes: Shapes = {}

    def visit(place: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Group) and place.endswith("/vars") and len(item) and place.startswith("layers/"):
            layer = item.attrs.get("name", place.removesuffix("/vars"))
            shapes[str(layer)] = [item[key].shape for key in sorted(item, key=int)]

    file.visititems(visit)
    if not shapes:
        raise KeyError("it holds no layer with weights")
    return shapes


def _shapes_of(model: keras.Model, old: bool) -> Shapes:
    """Of a model's layers; the older format keeps nested models whole."""
    layers = model.layers if old else leaf_layers(model)
    return {layer.name: [tuple(weight.shape) for weight in layer.weights] for layer in layers if layer.weights}


def _first_difference(expected: Shapes, found: Shapes) -> str | None:
    """The first layer of the model that the file has not, or has in other shapes."""
    for layer, shapes in expected.items():
        if layer not in found:
            first = next(iter(found))
            return (
                f"the model has a layer '{layer}' of {_written(shapes)}, the file has none of that name; "
                f"its own are {len(found)}, among them '{first}' of {_written(found[first])}"
            )
        if shapes != found[layer]:
            return f"layer '{layer}' is {_written(shapes)} in the model and {_written(found[layer])} in the file"
    more = [layer for layer in found if layer not in expected]
    return f"the file has more: layer '{more[0]}' of {_written(found[more[0]])}" if more else None


def _written(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)

"""What augmentation costs: milliseconds a batch for each layer and each strength, and beside a training step.

    python benchmarks/augment.py --json benchmarks/results/augment.json

Each model is a compiled forward pass in training mode over a batch that is already in memory; what the pass costs
without any layer is taken off. The training step is that of a small CNN without augmentation, on the same batch:
"of a step" is the time of the layers over the time of that step. KERAS_BACKEND chooses the backend.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
from tabulate import tabulate

from cxr.machine import usable_cores
from trainer.augmentation import Augmentation
from trainer.models.pixels import Equalize, Normalize, Scale


def small_cnn(side: int) -> keras.Model:
    """Raw pixels to two probabilities; four convolutions, each halving the resolution."""
    inputs = keras.Input((side, side, 1), dtype="uint8")
    features = Scale()(inputs)
    for filters in (16, 32, 64, 128):
        features = keras.layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(features)
    outputs = keras.layers.Dense(2, activation="softmax")(keras.layers.GlobalAveragePooling2D()(features))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile="auto")
    return model


def forward(layers: list[keras.layers.Layer], pixels: np.ndarray, jit: bool) -> Callable[[], Any]:
    """A compiled pass in training mode over the batch, which returns when it is done."""
    inputs = keras.Input(pixels.shape[1:], dtype="uint8")
    outputs = Scale()(inputs)
    for layer in layers:
        outputs = layer(outputs)
    model = keras.Model(inputs, outputs)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        signature = [tf.TensorSpec((None, *pixels.shape[1:]), tf.uint8)]
        step = tf.function(lambda batch: model(batch, training=True), signature, jit_compile=jit)
        batch = tf.constant(pixels)
        return lambda: step(batch).numpy()
    import jax

    stateless = jax.jit(lambda state, batch: model.stateless_call([], state, batch, training=True))
    state = [variable.value for variable in model.non_trainable_variables]
    on_device = jax.numpy.asarray(pixels)
    return lambda: stateless(state, on_device)[0].block_until_ready()


def milliseconds(step: Callable[[], Any], seconds: float) -> float:
    """Median time of a call, over so many seconds and at least five calls, the first two left out."""
    for _ in range(2):
        step()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < until:
        started = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def measure(side: int, batch_size: int, seconds: float, jit: bool) -> list[dict[str, Any]]:
    """Rows of one image size."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (batch_size, side, side, 1), "uint8")
    labels = random.integers(0, 2, batch_size, "int32")
    model = small_cnn(side)
    training = milliseconds(lambda: model.train_on_batch(pixels, labels), seconds)
    empty = milliseconds(forward([], pixels, jit), seconds)
    contenders: dict[str, list[keras.layers.Layer]] = {
        f"strong: {type(layer).__name__}": [layer] for layer in Augmentation.of("strong").layers(0)
    }
    contenders |= {"light": Augmentation.of("light").layers(0), "strong": Augmentation.of("strong").layers(0)}
    contenders |= {"Equalize": [Equalize()], "Normalize by image": [Normalize("image")]}
    found = {
        name: max(0.0, milliseconds(forward(layers, pixels, jit), seconds) - empty)
        for name, layers in contenders.items()
    }
    rows: list[dict[str, Any]] = [{"side": side, "name": "training step without", "ms": training}]
    for name, took in found.items():
        share = took / found["strong"] if name.startswith("strong:") else None
        rows.append({"side": side, "name": name, "ms": took, "of_strong": share, "of_step": took / training})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    for side in dict.fromkeys(row["side"] for row in rows):
        table = [
            [row["name"], row["ms"], *(row.get(key) and f"{row[key]:.0%}" for key in ("of_strong", "of_step"))]
            for row in rows
            if row["side"] == side
        ]
        print(f"\n{side} pixels")
        header = ["", "ms a batch", "of strong", "of a step"]
        print(tabulate(table, header, floatfmt=".1f", colalign=("left", "right", "right", "right")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="128,224,512", help="sides, pixels (128,224,512)")
    parser.add_argument("--batch-size", type=int, default=32, help="images a batch (32)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of measuring for each figure (1.5)")
    parser.add_argument("--jit", action="store_true", help="let XLA compile under TensorFlow too; JAX always does")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    if unknown := [size for size in arguments.sizes.split(",") if not size.isdigit() or int(size) < 16]:
        parser.error(f"--sizes: {', '.join(unknown)}; expected pixels, 16 or more")
    backend = keras.backend.backend()
    jit = arguments.jit or backend == "jax"
    rows = []
    for side in map(int, arguments.sizes.split(",")):
        rows += measure(side, arguments.batch_size, arguments.seconds, jit)
    cores = usable_cores()
    print(f"batches of {arguments.batch_size}, {backend}{' with XLA' if jit else ''}, {cores} cores")
    show(rows)
    if arguments.json:
        figures = {"backend": backend, "jit": jit, "cores": cores, "machine": platform.machine()}
        figures |= {"keras": keras.__version__, "batch_size": arguments.batch_size, "rows": rows}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

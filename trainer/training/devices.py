"""Several GPUs of one host: each gets an equal part of every batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from cxr.errors import InputError


@contextlib.contextmanager
def device_scope(devices: int | None = None) -> Iterator[int]:
    """Inside, models are built and trained on all GPUs of this host; yields their number, at least 1.

    TensorFlow copies the model to each (MirroredStrategy) and JAX shards the batch (DataParallel); gradients are
    averaged over them in each step. With one device nothing is done. `devices` is to use the first so many of the
    host's GPUs, or where it has none of what the backend makes of its CPU; InputError is raised where there are not so
    many.
    """
    if keras.backend.backend() == "jax":
        import jax

        local = jax.local_devices()
        found = _first([device for device in local if device.platform != "cpu"], local, devices)
        if len(found) < 2:
            yield 1
            return
        before = keras.distribution.distribution()
        names = [f"{device.platform}:{device.id}" for device in found]
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=names, auto_shard_dataset=False))
        try:
            yield len(found)
        finally:
            keras.distribution.set_distribution(before)
        return
    import tensorflow as tf

    logical = _first(tf.config.list_logical_devices("GPU"), tf.config.list_logical_devices("CPU"), devices)
    if len(logical) < 2:
        yield 1
        return
    strategy = tf.distribute.MirroredStrategy([device.name for device in logical])
    with strategy.scope():
        yield len(logical)


def _first(gpus: list[Any], others: list[Any], wanted: int | None) -> list[Any]:
    if wanted is None:
        return gpus
    found = gpus or others
    if not 1 <= wanted <= len(found):
        raise InputError(f"devices={wanted}: expected 1 to {len(found)}, for this host has {len(gpus)} GPUs")
    return found[:wanted]

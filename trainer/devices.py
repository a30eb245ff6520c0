"""Several GPUs of one host: each gets an equal part of every batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def device_scope(devices: int | None = None) -> Iterator[int]:
    """Inside, models are built and trained on all GPUs of this host; yields their number, at least 1.

    TensorFlow copies the model to each (MirroredStrategy) and JAX shards the batch (DataParallel); gradients are
    averaged over them in each step. With one device nothing is done.

    Args:
      devices: use the first so many of the host's devices, of whatever kind; None is all GPUs.
    """
    if keras.backend.backend() == "jax":
        import jax

        found = [device for device in jax.local_devices() if devices or device.platform != "cpu"][:devices]
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

    logical = tf.config.list_logical_devices(None if devices else "GPU")[:devices]
    if len(logical) < 2:
        yield 1
        return
    strategy = tf.distribute.MirroredStrategy([device.name for device in logical])
    with strategy.scope():
        yield len(logical)

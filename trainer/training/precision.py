"""Number formats and XLA: what the accelerator at hand has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from trainer.train_config import MixedPrecision, Xla

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
"""Our names, and those of Keras."""
_BFLOAT16_CAPABILITY = (8, 0)  # NVIDIA Ampere


def accelerators() -> int:
    """GPUs (or TPUs) that the backend sees."""
    if keras.backend.backend() == "jax":
        import jax

        return sum(device.platform != "cpu" for device in jax.local_devices())
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def choose_precision(wanted: MixedPrecision) -> str:
    """`float32`, `bfloat16` or `float16`: as wanted, or for `auto` what suits the accelerator."""
    if wanted != "auto":
        return wanted
    if not accelerators():
        return "float32"
    return "bfloat16" if _has_bfloat16() else "float16"


def use_xla(wanted: Xla) -> bool:
    """Whether the training step is compiled by XLA.

    On CPUs TensorFlow's own kernels are faster at convolutions. JAX cannot do without.
    """
    if keras.backend.backend() == "jax":
        return True
    return wanted == "on" or (wanted == "auto" and accelerators() > 0)


@contextlib.contextmanager
def policy(wanted: MixedPrecision) -> Iterator[str]:
    """Layers built inside compute in the chosen format; yields its name."""
    chosen = choose_precision(wanted)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[chosen])
    try:
        yield chosen
    finally:
        keras.config.set_dtype_policy(before)


def _has_bfloat16() -> bool:
    if keras.backend.backend() == "jax":
        import jax

        device = next(device for device in jax.local_devices() if device.platform != "cpu")
        capability = str(getattr(device, "compute_capability", "99"))
        return device.platform != "gpu" or tuple(map(int, capability.split("."))) >= _BFLOAT16_CAPABILITY[:1]
    import tensorflow as tf

    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
    return details.get("compute_capability", (0, 0)) >= _BFLOAT16_CAPABILITY

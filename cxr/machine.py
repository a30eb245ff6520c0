"""The machine: its cores, and TensorFlow started quietly."""

from __future__ import annotations

import os
import sys


def usable_cores() -> int:
    """Processor cores that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_tensorflow_small() -> None:
    """Lets TensorFlow, where it is not loaded yet, leave the GPU alone and say nothing but errors as it starts."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def load_tensorflow_quietly() -> None:
    """Imports TensorFlow and looks for GPUs without what its C++ parts print on standard error meanwhile.

    Those lines (on instruction sets, and CUDA that is not there) come before any level of logging is set, whatever
    TF_CPP_MIN_LOG_LEVEL says. Python's exceptions are raised as ever. Set that variable to 0 to see the lines.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0":
        return
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import tensorflow as tf

        tf.config.list_physical_devices()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)

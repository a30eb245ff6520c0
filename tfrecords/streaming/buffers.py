"""Memory for batches, used again when TensorFlow has let go of it.

A batch of full-resolution images is many megabytes, which the system hands out as pages to be cleared at first
touch; at native size that costs more than copying the pixels.
"""

from __future__ import annotations

import math
import weakref

import numpy as np

_ALIGNMENT = 64
"""Bytes. TensorFlow takes over an array that begins at a multiple of this; others it copies."""


def aligned_empty(size: int) -> np.ndarray:
    """uint8 [size] of arbitrary content, which TensorFlow can take over."""
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    return raw[-raw.ctypes.data % _ALIGNMENT :][:size]


class BufferPool:
    """Gives out arrays, from any number of threads.

    It never keeps more blocks than were in use at the same time. A block takes memory as far as it was ever used.
    """

    def __init__(self, block_bytes: int):
        """Takes no memory yet.

        Args:
          block_bytes: what the largest array will take; larger ones get a block of their own size.
        """
        self._block_bytes = block_bytes
        self._free: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array in C order with arbitrary content, whose memory returns when nothing refers to it any more."""
        size = math.prod(shape) * dtype.itemsize
        try:
            block = self._free.pop()
        except IndexError:
            block = np.empty(0, np.uint8)
        if len(block) < size:
            block = aligned_empty(max(size, self._block_bytes))
        array = np.frombuffer(block.data, np.uint8, size)  # what every view of the result refers to
        weakref.finalize(array, self._free.append, block).atexit = False
        return array.view(dtype).reshape(shape)

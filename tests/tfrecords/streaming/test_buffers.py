"""Blocks of memory come back when the last view of them is gone, and not before."""

from __future__ import annotations

import threading

import numpy as np
import tensorflow as tf

from tfrecords.streaming.buffers import BufferPool


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_a_block_is_used_again_when_nothing_refers_to_it():
    pool = BufferPool(0)
    first = pool.take((4, 5, 6, 1), np.dtype(np.uint16))
    assert (first.shape, first.dtype, first.flags.c_contiguous) == ((4, 5, 6, 1), np.uint16, True)
    place = address(first)
    assert place % 64 == 0
    view = first[2:, ::2]
    del first
    other = pool.take((4, 5, 6, 1), np.dtype(np.uint16))
    assert address(other) != place
    del view
    assert address(pool.take((3, 5), np.dtype(np.uint8))) == place  # smaller, of another type


def test_a_block_is_made_for_the_largest_array():
    pool = BufferPool(1000)
    small = pool.take((10,), np.dtype(np.uint8))
    place = address(small)
    del small
    assert address(pool.take((1000,), np.dtype(np.uint8))) == place


def test_a_block_that_is_too_small_is_replaced():
    pool = BufferPool(0)
    del [pool.take((10,), np.dtype(np.uint8))][0]
    large = pool.take((1000,), np.dtype(np.uint8))
    assert len(large) == 1000
    large[:] = 7
    del large
    assert len(pool._free) == 1


def test_a_tensor_keeps_its_block():
    """TensorFlow takes the array over without a copy, and gives it back when the tensor goes."""
    pool = BufferPool(0)
    places = []

    def make(step: np.int64) -> np.ndarray:
        array = pool.take((64, 64), np.dtype(np.uint8))
        array[:] = step
        places.append(address(array))
        return array

    dataset = tf.data.Dataset.range(50).map(lambda step: tf.numpy_function(make, [step], tf.uint8))
    kept = list(dataset.take(4))
    assert len(set(places)) == 4
    assert [address(np.asarray(memoryview(tensor))) for tensor in kept] == places
    for step, tensor in enumerate(dataset):  # each is let go before the next but one
        assert (tensor.numpy() == step).all()
    assert [int(tensor[5, 5]) for tensor in kept] == [0, 1, 2, 3]
    assert len(set(places)) < 25  # it returns them a little later


def test_many_threads():
    pool = BufferPool(0)
    wrong = []

    def work(number: int) -> None:
        for size in np.random.default_rng(number).integers(1, 5000, 300).tolist():
            array = pool.take((size,), np.dtype(np.uint8))
            array[:] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(pool._free) <= 12  # two at a time in each thread

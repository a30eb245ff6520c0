"""Batch shapes at native size: few, large enough, and no larger than they need be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cxr.errors import DatasetError
from tfrecords.format.manifest import SIZE_STEP, size_histogram
from tfrecords.images import codec
from tfrecords.streaming.buckets import assign_buckets, choose_buckets


def draw_sizes(number: int) -> np.ndarray:
    """Heights and widths of 1 to 120 images of a few clusters: int [n, 2]."""
    rng = np.random.default_rng([7, number])
    count = int(rng.integers(1, 121))
    centres = rng.integers(20, 1500, (int(rng.integers(1, 5)), 2))
    spread = rng.integers(0, 300)
    sizes = centres[rng.integers(0, len(centres), count)] + rng.integers(-spread, spread + 1, (count, 2))
    return np.maximum(sizes, 1)


def chosen(sizes: np.ndarray, limit: int, short_side: int | None = None) -> np.ndarray:
    histogram = size_histogram([tuple(size) for size in sizes.tolist()])
    return choose_buckets(histogram["counts"], histogram["step"], limit, short_side)


def shrunk(sizes: np.ndarray, short_side: int) -> np.ndarray:
    """The sizes in a rung, as the job itself makes them."""
    return np.array([codec.area_downscale(np.zeros((*size, 1), np.uint8), short_side).shape[:2] for size in sizes])


@pytest.mark.parametrize("limit", [1, 2, 3, 8, 100])
def test_buckets_are_few_in_order_and_hold_every_image(limit):
    at_limit = 0
    for number in range(60):
        sizes = draw_sizes(number)
        buckets = chosen(sizes, limit)
        assert 1 <= len(buckets) <= limit, number
        assert buckets.dtype == np.int64
        assert (buckets % SIZE_STEP == 0).all()
        areas = buckets.prod(axis=1).tolist()
        assert areas == sorted(areas)
        assert len({tuple(bucket) for bucket in buckets.tolist()}) == len(buckets)
        place = assign_buckets(np.column_stack([sizes, np.ones(len(sizes), int)]), buckets)
        for size, bucket in zip(sizes, place, strict=True):
            holding = [at for at, shape in enumerate(buckets) if (shape >= size).all()]
            assert bucket == holding[0], (number, size)
        cells = {(height // SIZE_STEP, width // SIZE_STEP) for height, width in sizes.tolist()}
        at_limit += len(cells) > limit == len(buckets)
        if len(cells) <= limit:
            own = (sizes // SIZE_STEP + 1) * SIZE_STEP
            assert (buckets[place].prod(axis=1) <= own.prod(axis=1)).all(), "nothing had to be merged"
        assert (buckets <= (sizes.max(axis=0) // SIZE_STEP + 1) * SIZE_STEP).all(), "larger than the largest"
    assert limit == 100 or at_limit > 10


def test_one_bucket_is_the_largest_height_by_the_largest_width():
    assert chosen(np.array([[100, 700], [640, 64], [63, 1]]), 1).tolist() == [[704, 704]]


@pytest.mark.parametrize("short_side", [32, 100, 256, 512])
def test_buckets_of_a_rung_hold_what_the_job_made(short_side):
    shrinking = 0
    for number in range(12):
        sizes = draw_sizes(number)[:40]
        in_rung = shrunk(sizes, short_side)
        shrinking += int((in_rung < sizes).any())
        for limit in (1, 5, 1000):
            buckets = chosen(sizes, limit, short_side)
            place = assign_buckets(in_rung, buckets)
            assert len(buckets) <= limit
            assert (buckets[place] >= in_rung).all()
    assert shrinking > 5


def test_the_short_side_of_a_rung_is_not_padded():
    """Where height and width lie in different cells, the shorter one is known to be the size of the rung."""
    sizes = np.array([[260, 400], [319, 510], [400, 700], [1000, 1300], [1300, 1000]])
    assert chosen(sizes, 8, 256).min(axis=1).max() == 256


def test_long_images_at_the_edges_of_cells_fit_their_rung():
    """The shortest short side and the longest long side of a cell, where the bound is reached."""
    tight = 0
    for short_side in range(16, 330, 3):
        for short, long in itertools.product((64, 128, 256, 320), range(383, 1400, 64)):
            if short > short_side:
                reduced = max(short_side, round(long * short_side / short))  # as codec.area_downscale says
                for sizes, in_rung in (([short, long], [short_side, reduced]), ([long, short], [reduced, short_side])):
                    buckets = chosen(np.array([sizes]), 8, short_side)
                    assert (buckets[assign_buckets(np.array([in_rung]), buckets)] >= in_rung).all()
                    tight += reduced % SIZE_STEP in (0, 1)
    assert tight > 100


def test_the_cheapest_pair_is_merged():
    for number in range(40):
        sizes = draw_sizes(number)
        histogram = size_histogram([tuple(size) for size in sizes.tolist()])["counts"]
        if len(histogram) < 2:
            continue
        counts = {((row + 1) * SIZE_STEP, (column + 1) * SIZE_STEP): images for row, column, images in histogram}
        costs = {}
        for one, other in itertools.combinations(counts, 2):
            joined = (max(one[0], other[0]), max(one[1], other[1]))
            padding = sum((joined[0] * joined[1] - shape[0] * shape[1]) * counts[shape] for shape in (one, other))
            costs.setdefault(padding, []).append({*counts} - {one, other} | {joined})
        found = {tuple(bucket) for bucket in chosen(sizes, len(histogram) - 1).tolist()}
        assert found in costs[min(costs)], number


def test_an_image_that_the_manifest_does_not_know_is_named():
    buckets = np.array([[64, 128], [128, 128]])
    with pytest.raises(DatasetError, match=r"an image of 129 x 5 pixels is larger .*\[128, 128\] at most.*cxr verify"):
        assign_buckets(np.array([[64, 64, 1], [129, 5, 1], [500, 500, 1]]), buckets)


def test_no_bucket_is_larger_than_the_largest_image():
    uniform = [[16, 16, 40]]  # images of 1024 x 1024
    assert choose_buckets(uniform, 64, 8, None).tolist() == [[1088, 1088]]
    assert choose_buckets(uniform, 64, 8, None, (1024, 1024)).tolist() == [[1024, 1024]]
    assert choose_buckets(uniform, 64, 8, None, (1025, 1070)).tolist() == [[1040, 1072]]


def test_thousands_of_sizes_are_still_few_buckets():
    histogram = [[row, column, 1] for row in range(10, 60) for column in range(10, 60)]
    buckets = choose_buckets(histogram, 64, 8, None)
    assert 1 <= len(buckets) <= 8
    rng = np.random.default_rng(0)
    shapes = rng.integers(640, 3840, (500, 2))
    held = buckets[assign_buckets(shapes, buckets)]
    assert (held >= shapes).all()

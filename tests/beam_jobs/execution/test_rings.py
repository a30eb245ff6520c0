"""The outer ring of images, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from beam_jobs.execution.rings import INSIDE, SIDE, VALUES, WIDTH, ring_of, write_rings
from tfrecords.images import codec

RNG = np.random.default_rng(8)


def small(levels: int = 256) -> np.ndarray:
    """[SIDE, SIDE, 1] in which every level stands equally often, so that equalisation changes next to nothing."""
    return RNG.permutation(np.arange(SIDE**2) * levels // SIDE**2).astype(np.uint8).reshape(SIDE, SIDE, 1)


def test_a_ring_is_the_outside_and_nothing_else():
    assert VALUES == 1200 == SIDE**2 - (SIDE - 2 * WIDTH) ** 2
    pixels = small()
    ring = ring_of(pixels)
    assert (ring.shape, ring.dtype) == ((VALUES,), np.uint8)
    assert np.abs(ring.astype(int) - pixels[..., 0][~INSIDE]).max() <= 1
    inside = pixels.copy()
    inside[INSIDE] = RNG.permutation(inside[INSIDE])
    np.testing.assert_array_equal(ring_of(inside), ring, "the histogram is the same, so the inside does not show")


def test_means_of_areas_and_any_shape():
    pixels = small()
    np.testing.assert_array_equal(ring_of(pixels.repeat(4, 0).repeat(3, 1)), ring_of(pixels))
    for shape in ((1, 1, 1), (40, 3000, 1), (3000, 40, 3), (57, 56, 3)):
        assert ring_of(RNG.integers(0, 256, shape, np.uint8)).shape == (VALUES,)


def test_exposure_does_not_count():
    pixels = small(128)
    np.testing.assert_array_equal(ring_of(pixels), ring_of(pixels + 60))


@pytest.mark.parametrize("scale", [1, 16, 257])
def test_16_bits_and_8_bits_are_alike_however_many_of_them_are_used(scale: int):
    pixels = small()
    np.testing.assert_array_equal(ring_of(pixels.astype(np.uint16) * scale), ring_of(pixels))


def test_colour_counts_as_its_luma():
    colour = RNG.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    np.testing.assert_array_equal(ring_of(colour), ring_of(codec.match_channels(colour, 1)))


def test_the_file_of_a_shard(tmp_path):
    rings = [ring_of(small()) for _ in range(3)]
    size, _ = write_rings(tmp_path / "a.npy", rings)
    assert size == (tmp_path / "a.npy").stat().st_size
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), rings)
    write_rings(tmp_path / "empty.npy", [])
    assert np.load(tmp_path / "empty.npy").shape == (0, VALUES)
    assert len(list(tmp_path.iterdir())) == 2

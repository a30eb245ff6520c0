"""Fitting images into a size, against a slow reference, OpenCV, and what the mathematics allows."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from tfrecords.images.fit import fit
from tfrecords.images.fit_modes import FITS

DTYPES = (np.uint8, np.uint16)


def fitted(pixels: np.ndarray, size: tuple[int, int], how: str = "squash") -> np.ndarray:
    out = np.full((*size, pixels.shape[2]), 77, pixels.dtype)  # nothing of what was there may stay
    fit(pixels, out, how)
    return out


def noise(seed: int, height: int, width: int, channels: int = 1, dtype=np.uint8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


def axis_matrix(size: int, start: float, stop: float, out_size: int) -> np.ndarray:
    """What each output pixel takes of each input pixel, written as one would say it: float64 [out_size, size]."""
    matrix = np.zeros((out_size, size))
    step = (stop - start) / out_size
    for place in range(out_size):
        if step > 1:  # the mean of what it covers
            begin, end = start + place * step, start + (place + 1) * step
            for pixel in range(size):
                matrix[place, pixel] = max(0.0, min(pixel + 1, end) - max(pixel, begin)) / step
        else:  # linear between the two pixel centres around its own
            centre = min(max(start + (place + 0.5) * step - 0.5, 0.0), size - 1.0)
            low = min(math.floor(centre), size - 1)
            matrix[place, low] += 1 - (centre - low)
            matrix[place, min(low + 1, size - 1)] += centre - low
    return matrix


def inner(height: int, width: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where `pad` puts an image: top, left, height, width."""
    scale = min(size[0] / height, size[1] / width)
    inner_height = min(size[0], max(1, round(height * scale)))
    inner_width = min(size[1], max(1, round(width * scale)))
    return (size[0] - inner_height) // 2, (size[1] - inner_width) // 2, inner_height, inner_width


def reference(pixels: np.ndarray, size: tuple[int, int], how: str) -> np.ndarray:
    """float64 [height, width, channels], not rounded."""
    height, width, _ = pixels.shape
    rows, columns = (0.0, height), (0.0, width)
    out = np.zeros((*size, pixels.shape[2]))
    top, left, out_height, out_width = 0, 0, *size
    if how == "pad":
        top, left, out_height, out_width = inner(height, width, size)
    if how == "crop":
        scale = max(size[0] / height, size[1] / width)
        shown = min(height, size[0] / scale), min(width, size[1] / scale)
        rows, columns = (((full - part) / 2, (full + part) / 2) for full, part in zip((height, width), shown))  # noqa: B905
    down, across = axis_matrix(height, *rows, out_height), axis_matrix(width, *columns, out_width)
    out[top : top + out_height, left : left + out_width] = np.einsum("yh,hwc,xw->yxc", down, pixels, across)
    return out


@pytest.mark.parametrize("how", FITS)
def test_every_pixel_is_the_exact_mean_or_the_linear_interpolation(how):
    shrunk = grown = 0
    for number in range(250):
        rng = np.random.default_rng([1, number])
        height, width = rng.integers(1, 70, 2).tolist()
        size = tuple(rng.integers(1, 50, 2).tolist())
        dtype, channels = DTYPES[number % 2], (1, 3)[number // 2 % 2]
        pixels = noise(number, height, width, channels, dtype)
        if pixels.shape[:2] == size:
            continue
        found = fitted(pixels, size, how).astype(float)
        # float32 holds 65,535 levels to 1 in 256
        allowed = 0.501 if dtype == np.uint8 else 0.55
        error = np.abs(found - reference(pixels, size, how)).max()
        assert error <= allowed, (number, pixels.shape, size, error)
        low, high = (0 if how == "pad" else pixels.min()), pixels.max()
        assert low <= found.min() <= found.max() <= high
        shrunk += height > size[0] and width > size[1]
        grown += height < size[0] and width < size[1]
    assert min(shrunk, grown) > 30


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_where_both_axes_shrink_it_is_opencvs_area_mean(dtype, channels):
    equal = total = 0
    for number in range(60):
        rng = np.random.default_rng([2, number])
        height, width = rng.integers(40, 400, 2).tolist()
        size = (int(rng.integers(3, height)), int(rng.integers(3, width)))
        pixels = noise(number, height, width, channels, dtype)
        theirs = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA).reshape(*size, channels)
        off = np.abs(fitted(pixels, size).astype(int) - theirs)
        assert off.max() <= 1, (pixels.shape, size)
        equal, total = equal + int((off == 0).sum()), total + off.size
    assert equal > 0.98 * total


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_constant_stays_constant_at_every_size(how, dtype):
    top = int(np.iinfo(dtype).max)
    for number in range(300):
        rng = np.random.default_rng([3, number])
        height, width = np.exp(rng.uniform(0, np.log(600), 2)).astype(int).tolist()
        size = tuple(np.exp(rng.uniform(0, np.log(300), 2)).astype(int).tolist())
        level = int(rng.choice([0, 1, top // 2, top - 1, top, rng.integers(0, top)]))
        found = fitted(np.full((height, width, 1), level, dtype), size, how)
        if how == "pad":
            y, x, inner_height, inner_width = inner(height, width, size)
            assert (found[y : y + inner_height, x : x + inner_width] == level).all(), (height, width, size, level)
            assert int((found == level).sum()) == (inner_height * inner_width if level else math.prod(size))
        else:
            assert (found == level).all(), (height, width, size, level)


@pytest.mark.parametrize("dtype", DTYPES)
def test_white_and_black_stay_so_on_the_largest_images(dtype):
    for level in (0, np.iinfo(dtype).max):
        assert (fitted(np.full((4000, 5000, 1), level, dtype), (224, 224)) == level).all()
        assert (fitted(np.full((5, 7000, 1), level, dtype), (1, 32)) == level).all()


def test_white_stays_white_at_any_factor():
    for size in (1000, 3000, 16384):
        found = int(fitted(np.full((size, 16, 1), 65535, np.uint16), (1, 1))[0, 0, 0])
        assert found >= 65530, (size, found)


def stripes(height: int, width: int, pattern: str) -> np.ndarray:
    """Single-pixel lines or squares of 0 and 255."""
    rows, columns = np.mgrid[:height, :width]
    which = {"vertical": columns, "horizontal": rows, "checkerboard": rows + columns}[pattern]
    return (which % 2 * 255).astype(np.uint8)[..., None]


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("pattern", ["vertical", "horizontal", "checkerboard"])
def test_the_finest_pattern_becomes_grey_and_not_moire(pattern, how):
    """Of a window `f` pixels wide over lines of +-127.5, all but at most one pixel cancels: |mean| <= 127.5 / f,
    along each axis that the pattern changes on. Point sampling or linear interpolation would give up to 127.5."""
    for factor in (2.1, 2.37, 2.5, 3.0, 3.3, 4.04, 5.5, 7.0, 7.9, 9.0):
        height, width = round(40 * factor), round(72 * factor)
        size = {"squash": (40, 72), "pad": (60, 72), "crop": (40, 50)}[how]
        found = fitted(stripes(height, width, pattern), size, how).astype(float)
        if how == "pad":
            y, x, inner_height, inner_width = inner(height, width, size)
            assert (inner_height, inner_width) == (40, 72)
            found = found[y : y + 40, x : x + 72]
        down, across = height / 40, width / 72
        if how == "crop":
            down = across = min(down, across)
        bound = {"vertical": 127.5 / across, "horizontal": 127.5 / down, "checkerboard": 127.5 / (down * across)}
        assert np.abs(found - 127.5).max() <= bound[pattern] + 0.501, factor


def test_pad_keeps_the_aspect_and_centres_the_image_within_black():
    for number in range(200):
        rng = np.random.default_rng([4, number])
        height, width = rng.integers(1, 200, 2).tolist()
        size = tuple(rng.integers(8, 120, 2).tolist())
        if (height, width) == size:
            continue
        found = fitted(np.full((height, width, 1), 200, np.uint8), size, "pad")[..., 0]
        rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
        assert (found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 200).all()
        assert len(rows) == size[0] or len(columns) == size[1], "it fills the size one way"
        scale = min(size[0] / height, size[1] / width)
        assert abs(len(rows) - max(1, height * scale)) <= 0.5
        assert abs(len(columns) - max(1, width * scale)) <= 0.5
        assert size[0] - 1 - rows[-1] - rows[0] in (0, 1), "the odd line goes to the bottom"
        assert size[1] - 1 - columns[-1] - columns[0] in (0, 1)


def test_crop_shows_the_middle_and_fills_the_size():
    """Of a ramp the crop shows a stretch whose mean is that of the whole, as wide as the aspect says."""
    ramp = np.broadcast_to(np.arange(0, 60000, 100, np.uint16)[None, :, None], (100, 600, 1))
    ramp = np.ascontiguousarray(ramp)
    for size in ((50, 50), (100, 100), (200, 200), (50, 75), (10, 7), (99, 301)):
        for pixels, wanted in ((ramp, size), (np.ascontiguousarray(ramp.swapaxes(0, 1)), size[::-1])):
            found = fitted(pixels, wanted, "crop")[..., 0].astype(float)
            if wanted is not size:
                found = found.T
            assert np.ptp(found, axis=0).max() == 0
            shown = 100 * size[1] / size[0]
            step = shown / size[1]
            assert abs(found[0].mean() - ramp.mean()) < 1
            np.testing.assert_allclose(np.diff(found[0]), 100 * step, atol=1.01)
            np.testing.assert_allclose(found[0, 0], 100 * (300 - shown / 2 + step / 2 - 0.5), atol=0.6)


def test_crop_to_the_same_scale_cuts_out_exact_pixels():
    pixels = noise(1, 60, 100)
    np.testing.assert_array_equal(fitted(pixels, (60, 40), "crop"), pixels[:, 30:70])
    np.testing.assert_array_equal(fitted(pixels, (20, 100), "crop"), pixels[20:40])


def test_pad_at_the_same_scale_keeps_exact_pixels():
    pixels = noise(2, 60, 100)
    found = fitted(pixels, (101, 100), "pad")
    np.testing.assert_array_equal(found[20:80], pixels)
    assert not found[:20].any()
    assert not found[80:].any()


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_right_size_is_copied(how, dtype, channels):
    for height, width in ((1, 1), (1, 9), (31, 17), (224, 224)):
        pixels = noise(height, height, width, channels, dtype)
        np.testing.assert_array_equal(fitted(pixels, (height, width), how), pixels)


@pytest.mark.parametrize("how", ["squash", "crop"])
def test_mirrored_and_turned_images_give_mirrored_and_turned_results(how):
    """No axis and no direction is treated in another way; ties may round to either side."""
    for number in range(60):
        rng = np.random.default_rng([5, number])
        height, width = rng.integers(2, 150, 2).tolist()
        size = tuple(rng.integers(2, 90, 2).tolist())
        pixels = noise(number, height, width)
        found = fitted(pixels, size, how).astype(int)
        for turn in (lambda image: image[::-1], lambda image: image[:, ::-1], lambda image: image.swapaxes(0, 1)):
            turned = np.ascontiguousarray(turn(pixels))
            wanted = turn(found)
            assert np.abs(fitted(turned, wanted.shape[:2], how).astype(int) - wanted).max() <= 1, (number, size)


@pytest.mark.parametrize("how", FITS)
def test_sixteen_bits_keep_their_whole_range(how):
    pixels = np.zeros((64, 64, 1), np.uint16)
    pixels[:32] = 65535
    for size in ((16, 16), (128, 128), (32, 16), (7, 7)):
        found = fitted(pixels, size, how)
        assert found.min() == 0
        assert found.max() == 65535


@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("how", FITS)
def test_lines_and_single_pixels(shape, how):
    for dtype in DTYPES:
        pixels = noise(9, *shape, 1, dtype)
        for size in ((1, 1), (1, 20), (20, 1), (30, 40), (3, 200)):
            if size != shape:
                error = np.abs(fitted(pixels, size, how) - reference(pixels, size, how)).max()
                assert error <= 0.55, (dtype, size)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("how", FITS)
def test_views_of_a_record_are_taken_as_they_are(channels, how):
    """Raw images are read-only views that begin at any byte."""
    for dtype in DTYPES:
        pixels = noise(4, 37, 53, channels, dtype)
        expected = fitted(pixels, (20, 31), how)
        for offset in (0, 1, 2, 3, 7):
            data = bytes(offset) + pixels.tobytes()
            view = np.frombuffer(memoryview(data)[offset:], dtype).reshape(pixels.shape)
            assert not view.flags.writeable
            np.testing.assert_array_equal(fitted(view, (20, 31), how), expected)
            np.testing.assert_array_equal(fitted(view, pixels.shape[:2], how), pixels)
            assert view.tobytes() == pixels.tobytes()
    unaligned = np.frombuffer(bytes(8) + pixels.tobytes(), np.uint8)
    assert any(not unaligned[start : start + pixels.nbytes].view(np.uint16).flags.aligned for start in range(1, 3)), (
        "the case above is a case"
    )


def test_only_its_own_place_in_a_batch_is_written():
    batch = np.full((3, 20, 30, 1), 99, np.uint8)
    pixels = noise(5, 50, 61)
    for how in FITS:
        batch[...] = 99
        fit(pixels, batch[1], how)
        np.testing.assert_array_equal(batch[1], fitted(pixels, (20, 30), how))
        assert (batch[[0, 2]] == 99).all()


def test_threads_do_not_disturb_one_another():
    jobs = []
    for number in range(200):
        rng = np.random.default_rng([6, number])
        height, width = rng.integers(1, 300, 2).tolist()
        size = tuple(rng.integers(1, 200, 2).tolist())
        jobs.append((noise(number, height, width, (1, 3)[number % 2], DTYPES[number // 2 % 2]), size, FITS[number % 3]))
    alone = [fitted(*job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for found, expected in zip(pool.map(lambda job: fitted(*job), jobs), alone, strict=True):
                np.testing.assert_array_equal(found, expected)

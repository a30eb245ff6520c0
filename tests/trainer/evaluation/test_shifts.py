"""Each shift does what its description says, to images of every kind, and the same each time."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from trainer.evaluation.shifts import SHIFTS, apply_shift, suite_summary

KINDS = [(dtype, channels) for dtype in (np.uint8, np.uint16) for channels in (1, 3)]


def pictures(dtype=np.uint8, channels: int = 1, size: tuple[int, int] = (60, 84), count: int = 2) -> np.ndarray:
    """Smooth shapes with some fine structure, from 0.1 to 0.7 of full scale; channels are equal."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(count):
        coarse = cv2.resize(random.random((5, 7)), size[::-1], interpolation=cv2.INTER_LINEAR)
        fine = random.random(size)
        images.append(0.1 + 0.5 * coarse + 0.1 * fine)
    levels = np.rint(np.stack(images)[..., None] * np.iinfo(dtype).max).astype(dtype)
    return np.repeat(levels, channels, axis=3)


def shift(name: str, images: np.ndarray) -> np.ndarray:
    return apply_shift(name, images, np.arange(len(images)))


def levels(images: np.ndarray) -> np.ndarray:
    """Of full scale 255, float64."""
    return images.astype(float) * 255 / np.iinfo(images.dtype).max


def sharpness(images: np.ndarray) -> float:
    return float(np.var([cv2.Laplacian(image[..., 0], cv2.CV_64F) for image in levels(images)]))


@pytest.mark.parametrize(("dtype", "channels"), KINDS)
@pytest.mark.parametrize("name", SHIFTS)
def test_every_shift_keeps_shape_type_and_the_originals(name, dtype, channels):
    images = pictures(dtype, channels)
    before = images.copy()
    shifted = shift(name, images)
    assert shifted.shape == images.shape and shifted.dtype == images.dtype
    np.testing.assert_array_equal(images, before)
    assert (shifted != images).any()
    change = np.abs(levels(shifted) - levels(images)).mean()
    assert 0.2 < change < 60
    if channels == 3:  # grey stays grey
        spread = levels(shifted).max(axis=3) - levels(shifted).min(axis=3)
        assert spread.max() <= (3 if name.startswith("jpeg") else 0)


@pytest.mark.parametrize("name", SHIFTS)
def test_an_image_is_shifted_alike_in_every_batch(name):
    images = pictures(count=3)
    together = apply_shift(name, images, np.array([5, 9, 5]))
    np.testing.assert_array_equal(together, apply_shift(name, images, np.array([5, 9, 5])))
    alone = apply_shift(name, images[1:2], np.array([9]))
    np.testing.assert_array_equal(together[1:2], alone)
    np.testing.assert_array_equal(
        apply_shift(name, images[:, ::2, ::2], [5, 9, 5])[1:2], apply_shift(name, images[1:2, ::2, ::2], [9])
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", SHIFTS)
def test_images_that_are_hardly_any(name, dtype):
    for size in ((1, 1), (1, 9), (3, 2)):
        for value in (0, np.iinfo(dtype).max):
            images = np.full((1, *size, 1), value, dtype)
            shifted = shift(name, images)
            assert shifted.shape == images.shape
            if name not in ("darkened", "noise"):
                assert np.abs(levels(shifted) - levels(images)).max() <= 2
    assert shift(name, np.zeros((0, 4, 4, 1), dtype)).shape == (0, 4, 4, 1)


def test_jpegs_lose_what_those_of_pillow_lose():
    image = pictures(size=(224, 224))[0, ..., 0]
    for quality in (95, 60, 30):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        pillow = np.asarray(Image.open(file)).astype(int)
        ours = shift(f"jpeg-{quality}", image[None, ..., None])[0, ..., 0].astype(int)
        loss = np.abs(pillow - image).mean()
        assert np.abs(ours - image).mean() == pytest.approx(loss, rel=0.1)
        assert np.abs(ours - pillow).mean() < 0.8 * loss  # not 0: libjpeg-turbo encodes with another DCT than Pillow's


@pytest.mark.parametrize(("dtype", "channels"), KINDS)
def test_lower_quality_loses_more(dtype, channels):
    images = pictures(dtype, channels)
    errors = [np.abs(levels(shift(f"jpeg-{quality}", images)) - levels(images)).mean() for quality in (95, 60, 30)]
    assert errors[0] < errors[1] < errors[2]
    assert errors[0] < 2


def test_a_jpeg_of_16_bits_uses_the_range_of_the_image():
    dark = (pictures(np.uint16) // 64).astype(np.uint16)  # would be 4 levels of 8 bits
    error = np.abs(shift("jpeg-95", dark).astype(float) - dark).mean()
    assert error < 0.02 * np.ptp(dark)
    assert shift("jpeg-30", dark).max() <= dark.max()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_blurred_and_rescaled_lose_detail_but_not_brightness(dtype):
    images = pictures(dtype, size=(224, 300))
    for name in ("blurred", "rescaled"):
        shifted = shift(name, images)
        assert sharpness(shifted) < 0.3 * sharpness(images)
        assert levels(shifted).mean() == pytest.approx(levels(images).mean(), abs=0.5)


def test_the_blur_is_a_gaussian_of_1_5_pixels_at_224():
    image = np.zeros((1, 224, 300, 1), np.uint8)
    image[0, 112, 150] = 255
    row = shift("blurred", image).astype(float)[0, 112, 140:161, 0]
    assert row[10] == pytest.approx(255 / (2 * np.pi * (224 / 150) ** 2), abs=1)
    assert row[11] / row[10] == pytest.approx(np.exp(-1 / (2 * (224 / 150) ** 2)), abs=0.05)


def test_rescaled_by_area_and_back_linearly():
    image = np.array([[0, 200, 40, 40]] * 4, np.uint8)[None, ..., None]
    assert shift("rescaled", image)[0, 0, :, 0].tolist() == [100, 85, 55, 40]


@pytest.mark.parametrize(("dtype", "channels"), KINDS)
def test_tones(dtype, channels):
    images = pictures(dtype, channels)
    images[0, 0, 0] = np.iinfo(dtype).max  # does not wrap
    part = levels(images) / 255
    expected = {
        "darkened": 0.7 * part, "brightened": np.minimum(1.3 * part, 1), "gamma-0.7": part**0.7, "gamma-1.4": part**1.4,
    }  # fmt: skip
    for name, wanted in expected.items():
        assert np.abs(levels(shift(name, images)) - 255 * wanted).max() <= 0.5001


@pytest.mark.parametrize(("dtype", "channels"), KINDS)
def test_low_contrast_is_around_the_mean_of_each_image(dtype, channels):
    images = pictures(dtype, channels)
    images[1] //= 2
    for image, shifted in zip(levels(images), levels(shift("low-contrast", images)), strict=True):
        assert shifted.mean() == pytest.approx(image.mean(), abs=0.1)
        assert shifted.std() == pytest.approx(0.6 * image.std(), rel=0.02)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_noise_has_10_levels_and_follows_the_row(dtype):
    grey = np.full((2, 100, 100, 1), np.iinfo(dtype).max // 2, dtype)
    noise = levels(apply_shift("noise", grey, np.array([3, 4]))) - levels(grey)
    assert noise.std(axis=(1, 2)) == pytest.approx(10, rel=0.05)
    assert np.abs(noise.mean(axis=(1, 2))).max() < 0.4
    assert abs(np.corrcoef(noise[0].reshape(-1), noise[1].reshape(-1))[0, 1]) < 0.05
    bounds = apply_shift("noise", np.zeros((1, 50, 50, 1), dtype), np.array([0]))
    assert levels(bounds).max() < 60 and (bounds == 0).mean() > 0.4  # cut off, not wrapped


def test_arrays_in_any_layout():
    images = pictures(channels=3)
    turned = np.asfortranarray(images)
    for name in SHIFTS:
        np.testing.assert_array_equal(shift(name, turned), shift(name, images))


def test_the_worst_of_each_metric():
    baseline = {
        "recall": {"value": 0.9, "low": 0.8, "high": 1.0},
        "specificity": {"value": 0.5, "low": 0.4, "high": 0.6},
        "precision": {"value": None, "low": None, "high": None},
        "brier": {"value": 0.1, "low": 0.0, "high": 0.2},
        "f1": {"value": 0.5, "low": 0.4, "high": 0.6},
    }
    found = {
        "noise": {"recall": 0.75, "specificity": 0.75, "precision": 0.5, "brier": 0.25, "f1": None},
        "blurred": {"recall": None, "specificity": 0.625, "precision": 0.5, "brier": 0.05, "f1": None},
    }
    shifted = {shift: {name: {"value": value} for name, value in values.items()} for shift, values in found.items()}
    assert suite_summary(baseline, shifted) == {
        "recall": {"shift": "noise", "value": 0.75, "drop": pytest.approx(0.15)},
        "specificity": {"shift": "blurred", "value": 0.625, "drop": -0.125},
        "brier": {"shift": "noise", "value": 0.25, "drop": pytest.approx(0.15)},
    }
    assert suite_summary(baseline, {}) == {}

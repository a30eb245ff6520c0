"""Which resolution a stream reads, and that it shows the same: hand-made, preprocessed phantoms, real X-rays."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest

from beam_jobs.job import preprocess
from beam_jobs.preprocess_config import PreprocessConfig
from cxr.errors import InputError
from tfrecords.dataset import XrayDataset, open_dataset
from tfrecords.images import codec
from tfrecords.images.fit import fit
from tfrecords.images.fit_modes import FITS
from tfrecords.inspect import read_split

IN_PROCESS = ("--runner=FnApiRunner", "--direct_num_workers=1", "--direct_running_mode=in_memory")


def fitted(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    out = np.empty((*size, pixels.shape[2]), pixels.dtype)
    fit(pixels, out)
    return out


@pytest.fixture(scope="module")
def ladder(make, tmp_path_factory):
    made = make(tmp_path_factory.mktemp("ladder") / "set", "raw", sizes=(48, 32, 8), shape=lambda n: (90 + n, 70 + n))
    return made, open_dataset(made.root)


@pytest.mark.parametrize(
    ("image_size", "rung"),
    [
        *((size, "8") for size in (1, 8, (1, 8))),
        *((size, "32") for size in (9, 32, (32, 5), (9, 1))),
        *((size, "48") for size in (33, (48, 48))),
        *((size, "full") for size in (49, 300, (49, 1), (8, 200), None)),
    ],
)
def test_the_smallest_rung_that_suffices_is_read(ladder, image_size, rung):
    made, data = ladder
    (images, _), *_ = data.stream("train", image_size=image_size, batch_size=5, max_buckets=1)
    expected = [pixels for _, pixels in made.expected[rung]["train"]]
    for place, pixels in enumerate(expected):
        if image_size is None:
            height, width, _ = pixels.shape
            np.testing.assert_array_equal(images["image"][place, :height, :width], pixels)
        else:
            size = image_size if isinstance(image_size, tuple) else (image_size, image_size)
            np.testing.assert_array_equal(images[place], fitted(pixels, size))


@pytest.mark.parametrize("rung", ["full", "48", "32", "8"])
def test_a_rung_that_is_asked_for_is_read(ladder, rung):
    made, data = ladder
    (images, _), *_ = data.stream("train", image_size=20, rung=rung)
    for image, (_, pixels) in zip(images, made.expected[rung]["train"], strict=True):
        np.testing.assert_array_equal(image, fitted(pixels, (20, 20)))


def test_a_rung_that_is_not_there_is_named_with_those_there_are(ladder):
    with pytest.raises(InputError, match=r"no rung '64'; the data set has full, 48, 32, 8$"):
        ladder[1].stream("train", rung="64")


@pytest.fixture(scope="module")
def phantom_set(phantoms, tmp_path_factory) -> XrayDataset:
    """The phantoms as the job writes them: 122 to 529 pixels high."""
    output = tmp_path_factory.mktemp("phantom_set") / "data"
    preprocess(PreprocessConfig(str(phantoms), str(output), sizes=(256, 128)), IN_PROCESS, quiet=True)
    return open_dataset(output)


@pytest.fixture(scope="module")
def xray_set(fullres, tmp_path_factory) -> XrayDataset:
    """24 originals, 0.4 to 6 megapixels, as the job writes them."""
    folder = tmp_path_factory.mktemp("xrays")
    for path in sorted(fullres.rglob("*.jpeg"))[::8]:
        target = folder / "images" / path.relative_to(fullres)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    config = PreprocessConfig(str(folder / "images"), str(folder / "data"), sizes=(256,), val_fraction=0)
    preprocess(config, IN_PROCESS, quiet=True)
    return open_dataset(folder / "data")


def shifted(image: np.ndarray, right: float, down: float) -> np.ndarray:
    matrix = np.array([[1, 0, right], [0, 1, down]], np.float32)
    return cv2.warpAffine(image, matrix, image.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


def shift_between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """By how many pixels down and right the second image lies from the first, by least squares (Lucas and Kanade)."""
    slopes = np.stack([slope[4:-4, 4:-4].ravel() for slope in np.gradient((one + other) / 2)], axis=1)
    return np.linalg.lstsq(slopes, (one - other)[4:-4, 4:-4].ravel(), rcond=None)[0]


def pictures(data: XrayDataset, rung: str, size: int, how: str) -> np.ndarray:
    stream = data.stream("train", image_size=size, fit=how, rung=rung, batch_size=1000, cache="none")
    return next(iter(stream))[0].numpy()[..., 0].astype(np.float32)


def inner_size(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Of the picture within the borders of `pad`."""
    scale = size / max(shape[:2])
    return round(shape[0] * scale), round(shape[1] * scale)


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize(
    ("name", "size", "rung"),
    [("phantom_set", 96, "128"), ("phantom_set", 128, "128"), ("xray_set", 224, "256")],
)
def test_a_rung_and_the_full_images_give_the_same_batch(request, name, size, rung, how):
    """Averaging twice is averaging once but for the rung's pixels that lie across a border of the result: there the
    mean over all of the rung's pixel stands for the mean over a part of it. So the mean difference is less than what
    the image differs from its own rung, each pixel from the mean around it, plus three roundings of 1/4 at a mean.
    Measured on the X-rays 0.4 to 0.7 levels, and below 1.3 on each image; on the phantoms, noisier, below 1.3."""
    data = request.getfixturevalue(name)
    from_full, from_rung = pictures(data, "full", size, how), pictures(data, rung, size, how)
    large, small = (
        [codec.decode(record) for record in read_split(data.root, data.manifest, name, "train")]
        for name in ("full", rung)
    )
    means, shifts = [], []
    for full, other, whole, reduced in zip(from_full, from_rung, large, small, strict=True):
        if how == "pad" and inner_size(whole.shape, size) != inner_size(reduced.shape, size):
            # the rung's own size is whole pixels, so the picture may end a line earlier or later
            for one, two in zip(inner_size(whole.shape, size), inner_size(reduced.shape, size), strict=True):
                assert abs(one - two) <= 1
            continue
        mean = float(np.abs(full - other).mean())
        height, width, _ = whole.shape
        enlarged = cv2.resize(reduced, (width, height), interpolation=cv2.INTER_NEAREST).astype(float)
        detail = float(np.abs(enlarged - whole[..., 0]).mean())
        assert mean <= detail + 0.75, (mean, detail)
        assert mean < 1.5
        means.append(mean)
        if mean < 0.05:
            continue  # the rung is the image itself, there is nothing to shift
        inside = np.s_[4:-4, 4:-4]
        fit_there = np.abs(full - other)[inside].mean()
        for right, down in ((0.25, 0), (-0.25, 0), (0, 0.25), (0, -0.25), (1, 0), (0, 1)):
            assert np.abs(shifted(other, right, down) - full)[inside].mean() > fit_there, (right, down)
        shifts.append(shift_between(full, other))
        correlation = np.fft.irfft2(np.fft.rfft2(full - full.mean()) * np.fft.rfft2(other - other.mean()).conj())
        assert correlation.argmax() == 0
    assert len(means) > 0.6 * len(from_full)
    assert np.mean(means) < 1.0
    # a rung's long side is whole pixels, so one of `crop` is up to 1/500 larger or smaller than it should be
    assert np.abs(shifts).max() < (0.06 if how == "squash" else 0.12)
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.01
    assert abs(float((from_full - from_rung).mean())) < 0.2, "brighter or darker"


def test_a_rung_is_chosen_for_the_job_s_own_data_sets(phantom_set):
    for size, rung in ((224, "256"), (256, "256"), (128, "128"), (257, "full")):
        chosen = next(iter(phantom_set.stream("val", image_size=size, batch_size=3)))[0]
        asked = next(iter(phantom_set.stream("val", image_size=size, batch_size=3, rung=rung)))[0]
        np.testing.assert_array_equal(chosen, asked)


def test_a_preprocessed_set_streams_every_image_once(phantom_set):
    for split in phantom_set.splits:
        for options in ({"image_size": 32}, {"image_size": None, "rung": "128"}):
            stream = phantom_set.stream(split, **options, training=True, epochs=1, metadata=True)
            elements = [(labels.numpy(), facts["path"].numpy()) for _, labels, facts in stream]
            labels, paths = (np.concatenate(column) for column in zip(*elements, strict=True))
            assert len(set(paths)) == len(paths) == phantom_set.images(split)
            assert [phantom_set.labels[label] for label in labels] == [path.decode().split("/")[1] for path in paths]

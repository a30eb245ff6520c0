"""The augmentation layers, inside compiled models, under whichever backend Keras runs on."""

from __future__ import annotations

import math

import cv2
import keras
import numpy as np
import pytest

from cxr.errors import InputError
from trainer.augmentation import Augmentation
from trainer.augmentation.geometry import RandomAffine, RandomFlip, inverse_affine, resample, resample_by_gather
from trainer.augmentation.photometry import RandomErasing, RandomNoise, RandomTone
from trainer.augmentation.recompression import RandomRecompression, recompress
from trainer.augmentation.resolution import RandomBlur, RandomRescale, blur, rescale
from trainer.models.pixels import Scale
from trainer.training import precision

BACKEND = keras.backend.backend()
SHAPE = (44, 36, 1)  # not square, sides no multiples of 8

LAYERS = {
    "affine": lambda **options: RandomAffine(0.1, 15, 0.2, **options),
    "flip": lambda **options: RandomFlip(**({"probability": 1.0} | options)),
    "tone": lambda **options: RandomTone(0.4, 0.4, 0.4, **options),
    "blur": lambda **options: RandomBlur(10, **options),
    "rescale": lambda **options: RandomRescale(3, **options),
    "noise": lambda **options: RandomNoise(0.1, **options),
    "recompression": lambda **options: RandomRecompression((10, 60), **options),
    "erasing": lambda **options: RandomErasing(0.3, **options),
}


def xrays(count=4, shape=SHAPE, seed=0) -> np.ndarray:
    """Smooth images with some noise, float32 in [0, 1], with black and white pixels among them."""
    random = np.random.default_rng(seed)
    small = random.uniform(0.1, 0.9, (count, 4, 4)).astype("float32")
    large = np.stack([cv2.resize(image, shape[1::-1], interpolation=cv2.INTER_CUBIC) for image in small])
    images = (large[..., None] + random.normal(0, 0.03, (count, *shape))).clip(0, 1).astype("float32")
    images[:, 0, 0], images[:, -1, -1] = 0, 1
    return images


def grey(count, level=0.5, shape=SHAPE) -> np.ndarray:
    return np.full((count, *shape), level, "float32")


def model_of(*layers, shape=SHAPE, dtype="float32") -> keras.Model:
    inputs = outputs = keras.Input(shape, dtype=dtype)
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def side_by_side(channels: int = 1, **options) -> keras.Model:
    """A model of all layers that gives what each makes of its input, by name; it is compiled once for all."""
    inputs = keras.Input((*SHAPE[:2], channels))
    return keras.Model(inputs, {name: make(**options)(inputs) for name, make in LAYERS.items()})


def compiled(model: keras.Model, jit: bool = BACKEND == "jax"):
    """A function of a batch that runs the model as a training step does, compiled, with its random state going on."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        step = tf.function(lambda images: model(images, training=True), jit_compile=jit, reduce_retracing=True)
        return lambda images: keras.tree.map_structure(np.asarray, step(tf.constant(images)))
    import jax

    step = jax.jit(lambda state, images: model.stateless_call([], state, images, training=True))

    def run(images):
        outputs, state = step([variable.value for variable in model.non_trainable_variables], images)
        for variable, value in zip(model.non_trainable_variables, state, strict=True):
            variable.assign(value)
        return keras.tree.map_structure(np.asarray, outputs)

    return run


def augment(*layers, images) -> np.ndarray:
    return compiled(model_of(*layers, shape=images.shape[1:]))(images)


@pytest.mark.parametrize(
    ("jit", "probability", "most"),
    [(False, 1.0, 5), (False, 0.5, 3), (True, 0.5, 3)] if BACKEND == "tensorflow" else [(True, 0.5, 3)],
)
def test_each_layer_acts_in_a_compiled_step_and_stays_in_range(jit, probability, most):
    images = xrays(5, (*SHAPE[:2], 3))
    for name, changed in compiled(side_by_side(3, probability=probability, seed=2), jit)(images).items():
        assert changed.dtype == np.float32 and changed.shape == images.shape, name
        assert changed.min() >= 0 and changed.max() <= 1 and np.isfinite(changed).all(), name
        touched = (np.abs(changed - images).max(axis=(1, 2, 3)) > 0.001).sum()
        assert (1 if name == "blur" else most - 1) <= touched <= most, name  # a weak blur does nothing


def test_batches_of_any_size_and_images_of_one_channel():
    run = compiled(side_by_side(probability=0.7))
    for count in (1, 4, 7):
        for name, changed in run(xrays(count)).items():
            assert changed.shape == (count, *SHAPE), name
            assert changed.min() >= 0 and changed.max() <= 1, name


def test_inference_is_the_identity_bit_for_bit():
    images = xrays()
    model = model_of(*(layer() for layer in LAYERS.values()))
    np.testing.assert_array_equal(model.predict(images, verbose=0), images)


def test_equal_channels_stay_equal():
    images = np.repeat(xrays(4), 3, axis=3)
    for name, changed in compiled(side_by_side(3))(images).items():
        np.testing.assert_allclose(changed, np.repeat(changed[..., :1], 3, axis=3), atol=1e-6, err_msg=name)


def test_each_image_and_each_batch_gets_draws_of_its_own():
    images = np.repeat(xrays(1), 4, axis=0)
    run = compiled(side_by_side())
    first, second = run(images), run(images)
    for name in set(LAYERS) - {"flip"}:
        outcomes = [first[name][0]]
        for image in (*first[name][1:], *second[name]):
            if all(np.abs(image - other).max() > 1e-4 for other in outcomes):
                outcomes.append(image)
        assert len(outcomes) >= 4, f"{name}, of 8; weak blurs look alike, as do close factors, rounded to whole pixels"


def test_a_seed_gives_the_same_images_and_another_gives_others():
    images, chosen = xrays(), Augmentation(brightness=0.4, noise_sigma=0.1)
    first, again, other = (augment(*chosen.layers(seed), images=images) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_layers_of_one_seed_draw_different_numbers():
    seeds = [layer.seed for layer in Augmentation.of("strong").layers(0)]
    assert len(set(seeds)) == len(seeds) > 5
    with_blur = {type(layer): layer.seed for layer in Augmentation.of("strong").layers(0)}
    for layer in Augmentation.of("strong", blur_sigma=0).layers(0):
        assert layer.seed == with_blur[type(layer)]


def test_restored_variables_go_on_with_the_same_sequence():
    assert len(model_of(*Augmentation.of("strong").layers(0)).variables) == len(Augmentation.of("strong").layers(0))
    images, chosen = xrays(), Augmentation(shift=0.1, brightness=0.4, noise_sigma=0.1)
    model, other = (model_of(*chosen.layers(seed)) for seed in (0, 5))
    run, run_other = compiled(model), compiled(other)
    run(images)
    assert np.abs(run(images) - run_other(images)).max() > 0.01
    for source, target in zip(model.variables, other.variables, strict=True):
        target.assign(source.value)
    np.testing.assert_array_equal(run(images), run_other(images))


@pytest.mark.parametrize(("probability", "counts"), [(0.5, {5, 6}), (0.1, {1, 2}), (0.9, {9, 10})])
def test_exactly_the_share_of_a_batch_is_chosen_at_random(probability, counts):
    images = xrays(11, (4, 4, 1))
    run = compiled(model_of(RandomFlip(probability=probability), shape=(4, 4, 1)))
    touched = np.stack([np.abs(run(images) - images).max(axis=(1, 2, 3)) > 0 for _ in range(60)])
    assert set(touched.sum(axis=1)) == counts
    # 60 draws of 11: the mean of each row has a standard error of at most 0.065, of all together far less.
    assert touched.mean() == pytest.approx(probability, abs=0.03)
    assert np.abs(touched.mean(axis=0) - probability).max() < 0.27


def test_a_batch_of_one_is_changed_with_the_probability():
    image = xrays(1, (4, 4, 1))
    run = compiled(model_of(RandomFlip(probability=0.3), shape=(4, 4, 1)))
    touched = [np.abs(run(image) - image).max() > 0 for _ in range(200)]
    assert 0.17 < np.mean(touched) < 0.43  # four standard errors


def test_rows_that_are_not_chosen_stay_as_they_are_in_place():
    images = xrays(9)
    changed = augment(RandomTone(2.0, probability=0.5), images=images)
    for image, outcome in zip(images, changed, strict=True):
        factor = outcome.mean() / image.mean()
        if factor != pytest.approx(1, abs=1e-4):
            ratio = outcome[image > 0] / image[image > 0]
            np.testing.assert_allclose(ratio[outcome[image > 0] < 1], ratio.max(), rtol=1e-4)
        else:
            np.testing.assert_array_equal(outcome, image)


# Geometry


def test_resampling_by_gather_is_that_of_the_kernel():
    images = xrays(6, (20, 28, 3))
    random = np.random.default_rng(1)
    ranges = ((-1, 1), (0.7, 1.4), (-4, 4), (-4, 4))  # of angle, scale and the two shifts
    transforms = inverse_affine((20, 28), *(random.uniform(low, high, 6).astype("float32") for low, high in ranges))
    whole = keras.ops.concatenate([transforms, np.zeros((6, 2), "float32")], axis=1)
    kernel = keras.ops.image.affine_transform(images, whole, fill_mode="nearest", data_format="channels_last")
    for ours in (resample_by_gather, resample):
        np.testing.assert_allclose(np.asarray(ours(images, transforms)), np.asarray(kernel), atol=1e-4)


@pytest.mark.parametrize(("degrees", "scale"), [(12, 1.0), (-25, 1.2), (0, 0.8)])
def test_rotation_and_zoom_are_those_of_opencv(degrees, scale):
    image = cv2.GaussianBlur(xrays(1, (40, 56, 1))[0, ..., 0], (0, 0), 1.5)  # OpenCV rounds positions to 1/32 pixel
    matrix = cv2.getRotationMatrix2D(((56 - 1) / 2, (40 - 1) / 2), degrees, scale)
    expected = cv2.warpAffine(image, matrix, (56, 40), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    values = (np.float32([value]) for value in (math.radians(degrees), scale, 0, 0))
    found = np.asarray(resample(image[None, ..., None], inverse_affine((40, 56), *values)))[0, ..., 0]
    assert np.abs(found - expected).max() < 0.01
    assert np.abs(found - image).max() > 0.1


def test_shifts_move_a_bright_pixel_within_the_range_in_all_directions():
    images = grey(200, 0.0, (41, 61, 1))
    images[:, 20, 30] = 1
    moved = augment(RandomAffine(shift=0.2), images=images)[..., 0]
    mass = moved.sum(axis=(1, 2))
    down = (moved.sum(axis=2) * np.arange(41)).sum(axis=1) / mass - 20
    right = (moved.sum(axis=1) * np.arange(61)).sum(axis=1) / mass - 30
    for found, limit in ((down, 0.2 * 41), (right, 0.2 * 61)):
        assert np.abs(found).max() <= limit + 1e-3
        assert found.min() < -0.8 * limit and found.max() > 0.8 * limit
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.3


def test_rotations_and_zooms_reach_both_ends_of_their_range():
    images = grey(100, 0.0, (61, 61, 1))
    images[:, 30, 45] = 1
    moved = augment(RandomAffine(rotation_degrees=20, zoom=0.25), images=images)[..., 0]
    mass = moved.sum(axis=(1, 2))
    y = 30 - (moved.sum(axis=2) * np.arange(61)).sum(axis=1) / mass
    x = (moved.sum(axis=1) * np.arange(61)).sum(axis=1) / mass - 30
    angle, scale = np.degrees(np.arctan2(y, x)), np.hypot(x, y) / 15
    assert -21 < angle.min() < -16 and 16 < angle.max() < 21
    assert 0.77 < scale.min() < 0.85 and 1.17 < scale.max() < 1.28


def test_nothing_black_comes_in_from_beyond_the_border():
    moved = augment(RandomAffine(0.3, 30, 0.2), images=grey(8, 0.6))
    np.testing.assert_allclose(moved, 0.6, atol=1e-5)


def test_flip_mirrors_left_and_right():
    images = xrays()
    np.testing.assert_array_equal(augment(RandomFlip(probability=1.0), images=images), images[:, :, ::-1])


# Photometry


def test_brightness_moves_the_mean_both_ways_within_its_range():
    factors = augment(RandomTone(brightness=0.5), images=grey(200)).mean(axis=(1, 2, 3)) / 0.5
    assert 1 / 1.5 - 1e-4 <= factors.min() < 0.72 and 1.4 < factors.max() <= 1.5 + 1e-4
    assert 0.35 < (factors < 1).mean() < 0.65


def test_contrast_stretches_about_the_mean():
    images = 0.4 + 0.2 * xrays(200)
    changed = augment(RandomTone(contrast=0.5), images=images)
    np.testing.assert_allclose(changed.mean(axis=(1, 2, 3)), images.mean(axis=(1, 2, 3)), atol=1e-3)
    factors = changed.std(axis=(1, 2, 3)) / images.std(axis=(1, 2, 3))
    assert 1 / 1.5 - 1e-3 <= factors.min() < 0.72 and 1.4 < factors.max() <= 1.5 + 1e-3


def test_gamma_is_a_power_within_its_range():
    images = xrays(200)
    changed = augment(RandomTone(gamma=0.5), images=images)
    exponents = np.log(changed[:, 5, 5, 0]) / np.log(images[:, 5, 5, 0])
    assert 1 / 1.5 - 1e-3 <= exponents.min() < 0.72 and 1.4 < exponents.max() <= 1.5 + 1e-3
    np.testing.assert_allclose(changed, images ** exponents[:, None, None, None], atol=2e-4)


def test_tone_is_never_extreme_in_all_respects():
    image = np.float32([0.3, 0.5]).repeat(8).reshape(1, 4, 4, 1)
    changed = augment(RandomTone(brightness=1.0, gamma=1.0), images=np.repeat(image, 500, axis=0))
    low, high = changed[:, 0, 0, 0], changed[:, -1, -1, 0]
    inside = (high < 1) & (low > 0)
    gamma = np.log(high[inside] / low[inside]) / math.log(0.5 / 0.3)
    brightness = high[inside] / 0.5**gamma
    distance = np.hypot(np.log2(gamma), np.log2(brightness))
    assert 0.95 < distance.max() < 1.01


def test_noise_has_the_sigma_drawn_and_is_white():
    noise = augment(RandomNoise(0.1), images=grey(60, shape=(33, 31, 1)))[..., 0] - 0.5
    sigma = noise.std(axis=(1, 2))
    assert sigma.max() < 0.105 and sigma.max() > 0.08 and sigma.min() < 0.02
    assert 0.035 < sigma.mean() < 0.065
    unit = noise / sigma[:, None, None]
    assert abs(unit.mean()) < 0.02
    assert np.mean(unit**4) == pytest.approx(3, abs=0.15), "not Gaussian"
    assert abs((unit[:, 1:] * unit[:, :-1]).mean()) < 0.02 and abs((unit[:, :, 1:] * unit[:, :, :-1]).mean()) < 0.02
    half = (33 * 31 + 1) // 2  # the two halves of the pixels come from the same pairs of draws
    flat = unit.reshape(60, -1)
    assert abs((flat[:, : 33 * 31 - half] * flat[:, half:]).mean()) < 0.02


def test_erasing_covers_one_grey_rectangle_of_the_area_drawn():
    images = grey(300, 2.0, (60, 40, 1))  # a level that no rectangle has
    erased = augment(RandomErasing(max_area=0.2, min_area=0.05), images=images)[..., 0]
    areas, greys, tops = [], [], []
    for image in erased:
        rows, columns = np.nonzero((image != 2).any(axis=1))[0], np.nonzero((image != 2).any(axis=0))[0]
        part = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert part.min() == part.max() and 0 <= part.max() <= 1, "not one rectangle of one grey"
        areas.append(part.size / image.size)
        greys.append(part.max())
        tops.append(rows[0] / (60 - len(rows)))
    assert min(areas) > 0.03 and max(areas) < 0.22
    assert np.mean(areas) == pytest.approx(0.125, abs=0.01)
    for fractions in (greys, tops):
        assert np.mean(fractions) == pytest.approx(0.5, abs=0.08) and np.std(fractions) > 0.2


# Resolution


@pytest.mark.parametrize("sigma", [0.8, 1.5, 3.0])
def test_blur_is_that_of_opencv_away_from_the_border(sigma):
    images = xrays(2, (64, 48, 1))
    blurred = np.asarray(blur(images, np.full((2, 1, 1), sigma, "float32")))[..., 0]
    margin = math.ceil(5 * sigma)
    for image, found in zip(images[..., 0], blurred, strict=True):
        expected = cv2.GaussianBlur(image, (2 * margin + 1,) * 2, sigma)
        inner = slice(margin, -margin)
        np.testing.assert_allclose(found[inner, inner], expected[inner, inner], atol=1e-4)
    np.testing.assert_allclose(np.asarray(blur(grey(1), np.full((1, 1, 1), sigma, "float32"))), 0.5, atol=1e-5)


def test_blur_lowers_the_variance_of_the_laplacian_by_degrees():
    images = np.repeat(xrays(1, (56, 56, 1)), 30, axis=0)
    blurred = augment(RandomBlur(max_sigma=8), images=images)  # 2 pixels at a side of 56
    sharpness = [cv2.Laplacian(image, cv2.CV_32F).var() for image in blurred[..., 0]]
    before = cv2.Laplacian(images[0, ..., 0], cv2.CV_32F).var()
    assert max(sharpness) <= before * 1.001 and min(sharpness) < before / 20
    assert len(np.unique(np.round(np.log(sharpness), 3))) > 20


def test_blur_grows_with_the_image():
    def width(side):
        points = grey(80, 0.0, (side, side, 1))
        points[:, side // 2, side // 2] = 1
        spread = augment(RandomBlur(max_sigma=10), images=points)[..., 0].sum(axis=1)
        return np.sqrt((spread * (np.arange(side) - side // 2) ** 2).sum(axis=1)).max()

    assert width(56) == pytest.approx(2.5, abs=0.2) and width(112) == pytest.approx(5, abs=0.4)


@pytest.mark.parametrize("factor", [1.0, 2.0, 2.8])
def test_rescaling_is_area_averaging_and_linear_interpolation(factor):
    images = xrays(2, (28, 56, 1))
    small = (round(56 / factor), round(28 / factor))
    found = np.asarray(rescale(images, np.full((2, 1, 1), factor, "float32")))[..., 0]
    for image, rescaled in zip(images[..., 0], found, strict=True):
        lower = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(rescaled, cv2.resize(lower, (56, 28), interpolation=cv2.INTER_LINEAR), atol=2e-5)


# Recompression


@pytest.mark.parametrize("quality", [10, 30, 60, 95])
@pytest.mark.parametrize("side", [64, 61])
def test_recompression_is_that_of_an_encoder(quality, side):
    levels = np.rint(xrays(2, (side, side, 1)) * 255).astype("uint8")
    found = np.asarray(recompress(levels / np.float32(255), np.full(2, quality, "float32"))) * 255
    for image, simulated in zip(levels, found, strict=True):
        _, file = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(file, cv2.IMREAD_GRAYSCALE).astype("float32")
        difference = np.abs(simulated[..., 0] - decoded)
        assert difference.mean() < 0.5  # coefficients half-way between two steps are rounded either way
        assert np.abs(decoded - image[..., 0]).mean() > 3 * difference.mean()
        np.testing.assert_allclose(simulated, np.rint(simulated), atol=1e-4)


def test_recompression_draws_all_qualities_of_its_range():
    images = np.repeat(xrays(1, (32, 32, 1)), 60, axis=0)
    changed = augment(RandomRecompression((30, 32)), images=images)
    possible = np.asarray(recompress(images[:3], np.float32([30, 31, 32])))
    nearest = [np.abs(possible - image).mean(axis=(1, 2, 3)).argmin() for image in changed]
    assert np.bincount(nearest, minlength=3).min() > 5
    assert all(np.abs(possible - image).mean(axis=(1, 2, 3)).min() < 1e-4 for image in changed)


# Strengths


@pytest.mark.parametrize(
    ("policy", "jit"),
    [("float32", False), pytest.param("bfloat16", True, marks=pytest.mark.slow)]
    if BACKEND == "tensorflow"
    else [("float32", True)],
)
def test_the_strong_stack_trains(policy, jit):
    with precision.policy(policy):
        inputs = keras.Input(SHAPE, dtype="uint16")
        outputs = Scale(16)(inputs)
        for layer in Augmentation.of("strong").layers(0):
            outputs = layer(outputs)
            assert outputs.dtype == "float32"
        pooled = keras.layers.GlobalAveragePooling2D(dtype="float32")(outputs)
        model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax", dtype="float32")(pooled))
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=jit)
    pixels = np.rint(xrays(5) * 65535).astype("uint16")
    history = model.fit(pixels, np.int32([0, 1, 0, 1, 0]), batch_size=2, epochs=2, verbose=0)  # the last batch has 1
    assert np.isfinite(history.history["loss"]).all()


def test_strengths_hold_what_they_name():
    assert Augmentation.of("none").layers(0) == []
    light = [RandomAffine, RandomTone]
    assert [type(layer) for layer in Augmentation.of("light").layers(0)] == light
    strong = [*light, RandomBlur, RandomRescale, RandomNoise, RandomRecompression, RandomErasing]
    assert [type(layer) for layer in Augmentation.of("strong").layers(0)] == strong
    assert [type(layer) for layer in Augmentation(flip=True).layers(0)] == [RandomFlip]
    chosen = Augmentation.of("strong", rotation_degrees=3.0)
    assert chosen.rotation_degrees == 3 and chosen.shift == Augmentation.of("strong").shift


def test_layers_survive_saving(tmp_path):
    model = model_of(*[layer(seed=2) for layer in LAYERS.values()])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    images = xrays()
    np.testing.assert_array_equal(compiled(model)(images), compiled(again)(images))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Augmentation.of("mild"), "augment='mild': expected one of none, light, strong"),
    (lambda: Augmentation.of("light", rotation=3), "has no option 'rotation'; did you mean rotation_degrees"),
    (lambda: Augmentation.of("light", shift=0.7), "shift=0.7: expected a number from 0 to 0.5"),
    (lambda: Augmentation(jpeg_quality=0), "jpeg_quality=0: expected a whole number from 1 to 100"),
])  # fmt: skip
def test_impossible_ranges_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()

"""Which pictures the audit shows, and that they are those of the images."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beam_jobs.execution.rings import INSIDE, SIDE, VALUES
from beam_jobs.planning.plan import SPLIT_ORDER
from beam_jobs.results import finish as finish_module
from beam_jobs.results.audit_pictures import (
    CLASSES,
    EXAMPLES,
    GROUPS,
    MEMBERS,
    RINGS,
    THUMBNAIL,
    AuditPictures,
    draw_pictures,
    ring_pictures,
)
from beam_jobs.results.outer_ring import RingSample
from tests.beam_jobs.conftest import run
from tests.beam_jobs.results.test_audit import image


def sample_of(rings: np.ndarray, side: np.ndarray) -> RingSample:
    images = tuple(image(f"{number}") for number in range(len(rings)))
    return RingSample(images, rings, ("TB",), side.astype(float)[:, None])


def test_the_mean_ring_of_each_class_and_where_they_differ():
    rings = np.full((5, VALUES), 100, np.uint8)
    rings[:2, :30], rings[:2, -30:] = 200, 40  # the first half of the top row, and the second half of the bottom row
    rings[2, 100] = 103
    side = np.array([1, 1, 0, 0, 0])
    (pictures,) = ring_pictures(sample_of(rings, side), ("NORMAL", "TB"), {"TB": {"auc": 1.0, "images": 5}}).values()
    without, having, difference = pictures
    assert without.caption == ("NORMAL", "mean of 3 images")
    assert having.caption == ("TB", "mean of 2 images")
    assert difference.caption[-1] == "100 of 255 levels at most"
    shrunk = without.pixels[::3, ::3, 0]
    assert shrunk.shape == (SIDE, SIDE)
    assert sorted(set(shrunk[~INSIDE])) == [100, 101], "the mean, with the inside plain"
    assert len(set(shrunk[INSIDE])) == 1
    red, _, blue = difference.pixels[0, 0].astype(int)
    assert red > blue + 100, "brighter is orange"
    red, _, blue = difference.pixels[-1, -1].astype(int)
    assert blue > red + 100, "darker is blue"
    assert difference.pixels[0, -1].tolist() == [255, 255, 255]


def test_rings_of_several_labels_the_most_telling_first():
    rings, side = np.full((4, VALUES), 9, np.uint8), np.array([1, 0, np.nan, 1])
    names = tuple(f"L{number}" for number in range(RINGS + 3))
    sample = RingSample(tuple(image(f"{n}") for n in range(4)), rings, names, np.stack([side] * len(names), axis=1))
    found = {name: {"auc": 0.5 + number / 100, "images": 3} for number, name in enumerate(names)}
    found["L4"] = {"skipped": "too few"}
    pictures = ring_pictures(sample, names, found)
    assert list(pictures) == [name for name in reversed(names) if name != "L4"][:RINGS]
    assert [shown.caption for shown in pictures["L5"]][:2] == [
        ("without L5", "mean of 1 images"), ("L5", "mean of 2 images")
    ]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch) -> list[AuditPictures]:
    """The pictures of each job that is run."""
    seen: list[AuditPictures] = []

    def keep(*arguments):
        seen.append(draw_pictures(*arguments))
        return seen[-1]

    monkeypatch.setattr(finish_module, "draw_pictures", keep)
    return seen


def lay(root: Path, depth: int) -> None:
    """Images in three splits and two classes, each white to another column."""
    columns = itertools.count(20)
    for split, label, number in itertools.product(SPLIT_ORDER, "AB", range(EXAMPLES + 2)):
        folder = root / split / label
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((300, 150), 0, np.uint16 if depth == 12 else np.uint8)
        pixels[:, : next(columns)] = 2**depth - 1
        Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.mark.parametrize(("sizes", "depth"), [((), 8), ((128, 32), 8), ((32,), 12)])
def test_examples_are_small_copies_of_the_images(tmp_path, drawn, sizes, depth):
    lay(tmp_path / "in", depth)
    run(tmp_path / "in", tmp_path / "data", sizes=sizes, val_fraction=0)
    (pictures,) = drawn
    assert list(pictures.examples) == list(SPLIT_ORDER)
    for split, classes in pictures.examples.items():
        assert list(classes) == ["A", "B"]
        for label, shown in classes.items():
            assert len(shown) == EXAMPLES
            for one in shown:
                assert one.caption[0] == f"{split}: {label}"
                assert one.pixels.shape == (THUMBNAIL, THUMBNAIL // 2, 1)
                with Image.open(tmp_path / "in" / one.caption[1]) as opened:
                    expected = (np.asarray(opened) > 0).mean()
                assert one.pixels.mean() / 255 == pytest.approx(expected, abs=0.01), "12 bits are not black"


def test_the_worst_duplicates_are_shown(tmp_path, drawn, read_page):
    rng = np.random.default_rng(2)
    places = [[f"train/A/g{group}_{number}" for number in range(MEMBERS + 2)] for group in range(GROUPS + 2)]
    places.append(["train/A/across_splits", "test/A/across_splits"])
    places.append(["train/A/across_labels", "train/B/across_labels"])
    places += [[f"{split}/{label}/{number}"] for split, label, number in itertools.product(SPLIT_ORDER, "AB", range(4))]
    for same in places:
        pixels = Image.fromarray(rng.integers(0, 256, (60, 60, 3), np.uint8))
        for name in same:
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            pixels.save(tmp_path / "in" / f"{name}.png")
    run(tmp_path / "in", tmp_path / "data", val_fraction=0)
    (pictures,) = drawn
    shown = [[one.caption[1] for one in group] for group in pictures.duplicates]
    assert shown[0] == ["train/A/across_labels.png", "train/B/across_labels.png"]
    assert shown[1] == ["test/A/across_splits.png", "train/A/across_splits.png"]
    assert [len(group) for group in shown] == [2, 2] + [MEMBERS] * (GROUPS - 2)
    for group in pictures.duplicates:
        for one in group[1:]:
            np.testing.assert_array_equal(one.pixels, group[0].pixels)
    page = read_page(tmp_path / "data" / "audit.html")
    assert f"Shown are {GROUPS} of the groups" in page.text
    assert "Group 1 train: A train/A/across_labels.png train: B train/B/across_labels.png" in page.text


def test_the_page_stays_small(tmp_path, drawn, read_page):
    """Of many classes of nothing but noise in colour, which no JPEG makes small."""
    rng = np.random.default_rng(4)
    for split, label, number in itertools.product(SPLIT_ORDER, range(CLASSES + 2), range(EXAMPLES + 1)):
        folder = tmp_path / "in" / split / f"class {label:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (THUMBNAIL, THUMBNAIL, 3), np.uint8)).save(folder / f"{number}.png")
    run(tmp_path / "in", tmp_path / "data", val_fraction=0)
    page = read_page(tmp_path / "data" / "audit.html")
    assert page.tags.count("img") == len(SPLIT_ORDER) * CLASSES * EXAMPLES
    assert f"Examples of the first {CLASSES} labels only" in page.text
    assert len(re.findall("data:image/jpeg;base64,", page.source)) == page.tags.count("img")
    assert len(page.source) < 1_500_000

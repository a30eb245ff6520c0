"""The model of the outer ring on planted rings, and jobs on phantoms whose outside tells the label, or does not."""

from __future__ import annotations

import csv
import functools
import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from beam_jobs import job as job_module
from beam_jobs.execution.rings import INSIDE, SIDE, VALUES
from beam_jobs.job import preprocess
from beam_jobs.preprocess_config import PreprocessConfig
from beam_jobs.results import outer_ring
from beam_jobs.results.audit import STRONG_RING_AUC, WARN_RING_AUC, audit
from beam_jobs.results.closing_report import closing_report
from beam_jobs.results.outer_ring import label_from_outer_ring, out_of_fold_scores, ring_sample
from beam_jobs.sources.naming import kermany_patient
from phantoms.phantom import PhantomConfig, write_phantoms
from tests.beam_jobs.conftest import run
from tests.beam_jobs.results.test_audit import LABELS, image, warnings_of
from tests.beam_jobs.test_job import files_of
from tfrecords.verify import verify

CORNER = np.flatnonzero((np.add.outer(np.arange(SIDE), np.arange(SIDE)) < 6)[~INSIDE])
"""Places of a ring that are in the upper left corner."""


def rings_with_corner(rng: np.random.Generator, marked: np.ndarray, brightness: int = 255) -> np.ndarray:
    rings = rng.integers(60, 200, (len(marked), VALUES), np.uint8)
    rings[np.ix_(np.flatnonzero(marked), CORNER)] = brightness
    return rings


def test_scores_of_a_mark_and_of_nothing():
    rng = np.random.default_rng(1)
    marked, chance = rng.random((2, 200)) < 0.4
    patients = np.array([f"p{number // 2}" for number in range(200)])
    sides = np.stack([marked, chance], axis=1).astype(float)
    scores = out_of_fold_scores(rings_with_corner(rng, marked), sides, patients)
    assert scores.shape == (200, 2)
    assert scores[marked, 0].min() > scores[~marked, 0].max()
    assert abs(np.median(scores[chance, 1]) - np.median(scores[~chance, 1])) < 0.2


def test_a_mark_of_the_patient_does_not_count():
    """Each patient has a ring of its own: only folds that part a patient could use it."""
    rng = np.random.default_rng(2)
    patients = np.repeat([f"p{number}" for number in range(40)], 5)
    rings = rng.integers(0, 256, (40, VALUES), np.uint8).repeat(5, axis=0)
    sides = rng.permutation(np.arange(40) % 2).repeat(5).astype(float)[:, None]
    kept = out_of_fold_scores(rings, sides, patients)[:, 0]
    parted = out_of_fold_scores(rings, sides, np.arange(200).astype(str))[:, 0]
    assert (parted > 0).tolist() == (sides[:, 0] == 1).tolist()
    assert np.mean((kept > 0) == (sides[:, 0] == 1)) < 0.75


def test_unknown_labels_and_too_few_patients():
    rng = np.random.default_rng(3)
    marked = np.arange(120) % 3 == 0
    sides = np.stack([marked, marked, np.arange(120) < 9], axis=1).astype(float)
    sides[::2, 1] = np.nan
    images = tuple(image(f"{number:03d}", patient=f"p{number}") for number in range(120))
    sample = outer_ring.RingSample(images, rings_with_corner(rng, marked), ("a", "b", "c"), sides)
    scores = out_of_fold_scores(sample.rings, sample.sides, sample.patients)
    assert not np.isnan(scores[:, 0]).any()
    np.testing.assert_array_equal(np.isnan(scores[:, 1]), np.arange(120) % 2 == 0)
    assert np.isnan(scores[:, 2]).all()
    assert label_from_outer_ring(sample, scores) == {
        "a": {"auc": 1.0, "images": 120},
        "b": {"auc": 1.0, "images": 60},
        "c": {"skipped": "needs at least 10 patients on either side; there are 111 and 9"},
    }


def write_rings(folder: Path, count: int) -> list[tuple[Path, list[str]]]:
    """Files of 7 rings each, of images named by number; ring n begins with n."""
    files = []
    for start in range(0, count, 7):
        numbers = range(start, min(count, start + 7))
        rings = np.zeros((len(numbers), VALUES), np.uint8)
        rings[:, 0] = numbers
        np.save(folder / f"{start}.npy", rings)
        files.append((folder / f"{start}.npy", [f"{number:03d}" for number in numbers]))
    return files


def test_the_sample_is_of_train_with_whole_patients_and_their_rings(tmp_path, monkeypatch):
    monkeypatch.setattr(outer_ring, "MAX_IMAGES", 50)
    monkeypatch.setattr(outer_ring, "MIN_IMAGES", 10)
    images = [
        image(
            f"{n:03d}", "train" if n < 160 else "test", label=n % 2, patient=f"p{n // 4}", unknown=(1,) * (n % 10 == 9)
        )
        for n in range(200)
    ]
    files = write_rings(tmp_path, 200)
    sample = ring_sample(images[::-1], LABELS, files[::-1])
    assert sample.labels == LABELS, "with unknown labels the two no longer exclude each other"
    assert 36 <= len(sample.images) <= 39, "50 / sqrt(2), and the last patient whole"
    assert all(one.split == "train" for one in sample.images)
    counts = np.unique(sample.patients, return_counts=True)[1]
    assert set(counts) == {4}
    paths = [one.path for one in sample.images]
    assert paths == sorted(paths)
    assert sample.rings[:, 0].tolist() == [int(path) for path in paths]
    for one, side in zip(sample.images, sample.sides, strict=True):
        second = np.nan if one.unknown else float(1 in one.labels)
        np.testing.assert_array_equal(side, [float(0 in one.labels), second])
    assert ring_sample(images, LABELS, files).images == sample.images
    without_train = [one for one in images if one.split == "test"]
    assert len(ring_sample(without_train, LABELS, files).images) == 36


@pytest.mark.parametrize(
    ("auc", "told"), [(0.79, None), (WARN_RING_AUC, "told from"), (STRONG_RING_AUC, "told easily")]
)
def test_the_warning(auc: float, told: str | None):
    report = audit([image("1"), image("2", label=1)], LABELS, outer_ring={"PNEUMONIA": {"auc": auc, "images": 2}})
    found = warnings_of(report, "OUTSIDE")
    assert len(found) == (told is not None)
    for line in found:
        assert f"'PNEUMONIA' can be {told}" in line
        assert "another hospital" in line
        assert "cxr train --augment strong" in line


def test_unknown_labels_are_left_out_of_the_check_of_the_encoding():
    """Where nobody knows, the files are large: counted as without the label, they would hide what gives it away."""
    images = [image(f"{n}", label=(n % 2,), bytes=10**5 * (1 + n % 2) + n) for n in range(60)]
    images += [image(f"u{n}", label=(), unknown=(0, 1), bytes=2 * 10**5 + n) for n in range(60)]
    found = audit(images, LABELS)["label_from_encoding"]
    assert set(found) == set(LABELS)
    assert {result["images"] for result in found.values()} == {60}
    assert min(result["auc"] for result in found.values()) > 0.99


@pytest.fixture(scope="module")
def chests(tmp_path_factory) -> Path:
    """About 130 phantoms of 76 patients."""
    folder = tmp_path_factory.mktemp("chests") / "images"
    write_phantoms(PhantomConfig(to=str(folder), patients=76, seed=5, scale=0.26))
    return folder


def dealt(patient: str) -> str:
    """A label that has nothing to do with the pictures."""
    return "AB"[zlib.crc32(patient.encode()) % 2]


@pytest.fixture(scope="module")
def labelled(chests, tmp_path_factory) -> Callable[[bool], Path]:
    """`labelled(marked)`: a table of the phantoms with labels dealt by chance; if marked, B has a white corner."""

    def make(marked: bool) -> Path:
        root = tmp_path_factory.mktemp("labelled")
        rows = []
        for number, path in enumerate(sorted(chests.rglob("*.jpeg"))):
            with Image.open(path) as opened:
                pixels = np.array(opened.convert("L"))
            patient = kermany_patient(path.name, normal="IM-" in path.name)
            if marked and dealt(patient) == "B":
                height, width = pixels.shape
                pixels[: height // 14, : width // 10] = 255  # a burned-in marker
            Image.fromarray(pixels).save(root / f"{number:03d}.png")
            split = ("train", "train", "train", "test")[zlib.crc32(patient.encode()) // 2 % 4]
            rows.append({"path": f"{number:03d}.png", "label": dealt(patient), "patient": patient, "split": split})
        with open(root / "table.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return root / "table.csv"

    return functools.cache(make)


@pytest.fixture(scope="module")
def marked(labelled, tmp_path_factory) -> Path:
    """A data set in which the corner of the images tells the label."""
    output = tmp_path_factory.mktemp("marked") / "data"
    run(labelled(True), output, val_fraction=0, sizes=(64,))
    return output


def test_a_job_in_which_a_corner_tells_the_label(marked, read_page):
    report = json.loads((marked / "audit.json").read_text())
    assert set(report["label_from_outer_ring"]) == {"B"}
    assert report["label_from_outer_ring"]["B"]["auc"] > 0.97
    assert report["label_from_outer_ring"]["B"]["images"] == report["balance"]["train"]["images"]
    (line,) = warnings_of(report, "OUTSIDE")
    assert "the label 'B' can be told easily from the outer ring of the images alone, AUC " in line
    page = read_page(marked / "audit.html")
    assert line in page.text
    assert "Where 'B' differs outside" in page.text
    assert page.tags.count("img") == 3 + 2 * 2 * 4, "the rings, and four examples of either class in train and test"
    assert verify(marked, deep=True) == []


def test_a_job_in_which_nothing_outside_tells_the_label(labelled, tmp_path, read_page):
    summary = run(labelled(False), tmp_path / "data", val_fraction=0)
    assert summary.audit["label_from_outer_ring"]["B"]["auc"] == pytest.approx(0.5, abs=0.2)
    assert not warnings_of(summary.audit, "OUTSIDE")
    assert "'B' predictable from the outer ring of the images alone" in closing_report(summary, "data")


def test_a_set_without_train_is_asked_as_a_whole(labelled, tmp_path):
    report = run(labelled(True), tmp_path / "data", split="external").audit
    assert report["label_from_outer_ring"]["B"]["images"] == report["balance"]["test"]["images"]
    assert report["label_from_outer_ring"]["B"]["auc"] > 0.97


@pytest.mark.parametrize("harm", ["lost", "cut", "changed", "result lost"])
def test_rings_that_are_lost_are_made_again(labelled, marked, tmp_path, monkeypatch, harm):
    output = tmp_path / "data"
    options = {"val_fraction": 0, "sizes": (64,)}
    with monkeypatch.context() as patch:
        patch.setattr(job_module, "finish", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(labelled(True), output, **options)
    victim = sorted((output / ".work" / "results").glob("*.npy"))[1]
    content = victim.read_bytes()
    if harm in ("lost", "result lost"):
        (victim if harm == "lost" else victim.with_name(victim.name.replace(".rings.npy", ".json"))).unlink()
    else:
        victim.write_bytes(content[:-1] if harm == "cut" else bytes(len(content)))
    summary = run(labelled(True), output, **options)
    shards = sum(len(shards) for shards in summary.manifest.rungs["full"].shards.values())
    assert summary.kept_shards == shards - 1 > 0
    assert files_of(output) == files_of(marked)


def test_two_workers_write_the_same(labelled, marked, tmp_path):
    config = PreprocessConfig(str(labelled(True)), str(tmp_path / "data"), val_fraction=0, sizes=(64,))
    preprocess(config, ("--direct_num_workers=2", "--direct_running_mode=multi_processing"), quiet=True)
    assert files_of(tmp_path / "data") == files_of(marked)


def test_several_labels_some_of_them_unknown(labelled, tmp_path, read_page):
    """`mark` is what the corner says where somebody knows; `rare` is too rare; one image is damaged."""
    table = labelled(True)
    shutil.copytree(table.parent, tmp_path / "in")
    with open(table) as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        stated = str(int(row.pop("label") == "B"))
        row["mark"] = stated if number % 4 else "-1"
        row["rare"] = str(int(number < 3))
    damaged = tmp_path / "in" / rows[5]["path"]
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with open(tmp_path / "in" / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "patient", "split", "mark", "rare"])
        writer.writeheader()
        writer.writerows(rows)
    more = {"label_columns": ("mark", "rare"), "val_fraction": 0, "max_reject_fraction": 0.1}
    report = run(tmp_path / "in" / "table.csv", tmp_path / "data", **more).audit
    train = [row for row in rows if row["split"] == "train" and row is not rows[5]]
    known = [row for row in train if row["mark"] != "-1"]
    assert len(known) < len(train)
    for check in ("label_from_outer_ring", "label_from_encoding"):
        assert report[check]["mark"]["images"] == len(known)
        assert report[check]["rare"]["skipped"].startswith("needs at least 10 patients on either side; there are")
    assert report["label_from_outer_ring"]["mark"]["auc"] > 0.85
    page = read_page(tmp_path / "data" / "audit.html")
    assert "without mark" in page.text
    assert "005.png unreadable" in page.text

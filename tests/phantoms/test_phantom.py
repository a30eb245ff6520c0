"""`cxr phantom`: real files in small sizes, checked for layout, determinism, planted faults and visible findings."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms

from cxr.console import run_command
from cxr.errors import InputError, OutputError
from phantoms.phantom import MARKER, PhantomConfig, PhantomSummary, draw_phantom, main, write_phantoms

ROOT = Path(__file__).resolve().parents[2]
SMALL = 0.25
NORMAL_NAME = re.compile(r"((?:NORMAL2-)?IM-\d{4,})-\d{4}\.jpeg")
PNEUMONIA_NAME = re.compile(r"(person\d+_(?:bacteria|virus))_\d+\.jpeg")


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.jpeg"))}


def patient_of(path: str) -> str:
    pattern = NORMAL_NAME if "/NORMAL/" in path else PNEUMONIA_NAME
    match = pattern.fullmatch(path.rsplit("/", 1)[1])
    assert match, f"{path} does not follow the names of the real set"
    return match[1]


def write(to: Path, patients: int = 12, **options) -> PhantomSummary:
    return write_phantoms(PhantomConfig(to, patients, scale=SMALL, **options))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> PhantomSummary:
    return write(tmp_path_factory.mktemp("plain") / "set", 60)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> PhantomSummary:
    return write(tmp_path_factory.mktemp("faulty") / "set", seed=5, duplicates=3, broken=7)


@pytest.fixture(scope="module")
def leaky(tmp_path_factory) -> PhantomSummary:
    return write(tmp_path_factory.mktemp("leaky") / "set", 24, encoding_leak=True)


def test_folders_hold_both_classes_and_the_summary_counts_them(plain):
    assert {p.name for p in plain.to.iterdir()} == {"train", "val", "test", MARKER}
    for split in ("train", "val", "test"):
        assert {p.name for p in (plain.to / split).iterdir()} == {"NORMAL", "PNEUMONIA"}
        for label in ("NORMAL", "PNEUMONIA"):
            found = len(list((plain.to / split / label).iterdir()))
            assert found == plain.counts[split][label] >= 1
    assert plain.files == len(files_of(plain.to)) == sum(sum(of.values()) for of in plain.counts.values())


def test_no_patient_is_in_two_splits_and_some_have_several_images(plain):
    splits = defaultdict(list)
    for path in files_of(plain.to):
        splits[patient_of(path)].append(path.split("/")[0])
    assert len(splits) == 60
    assert all(len(set(of)) == 1 for of in splits.values())
    assert {1, 2, 3} <= {len(of) for of in splits.values()}
    numbers = [path.rsplit("_", 1)[1] for path in files_of(plain.to) if "_bacteria_" in path]
    assert len(set(numbers)) == len(numbers), "the running number of a cause must not repeat"


def test_shares_follow_the_real_set(plain):
    train, test = plain.counts["train"], plain.counts["test"]
    assert sum(train.values()) / plain.files == pytest.approx(0.87, abs=0.04)
    assert train["PNEUMONIA"] / sum(train.values()) == pytest.approx(0.743, abs=0.04)
    assert test["PNEUMONIA"] / sum(test.values()) == pytest.approx(0.62, abs=0.10)
    sick = [patient_of(path) for path in files_of(plain.to) if "/PNEUMONIA/" in path]
    assert sum(p.endswith("bacteria") for p in sick) / len(sick) == pytest.approx(0.65, abs=0.08)


@pytest.mark.parametrize("patients", [12, 17])
def test_every_split_has_both_classes_for_few_patients(tmp_path, patients):
    summary = write(tmp_path / "set", patients, seed=patients)
    assert all(count >= 1 for of in summary.counts.values() for count in of.values())
    assert len({patient_of(path) for path in files_of(summary.to)}) == patients


def test_modes_sizes_and_progressive_files(plain):
    modes, progressive, sizes = defaultdict(list), 0, []
    for path, data in files_of(plain.to).items():
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG"
            modes[image.mode].append(path)
            progressive += bool(image.info.get("progressive"))
            sizes.append(image.size)
            if image.mode == "RGB":
                red, green, blue = np.moveaxis(np.asarray(image), 2, 0)
                assert np.array_equal(red, green)
                assert np.array_equal(red, blue)
    assert set(modes) == {"L", "RGB"}
    assert all(path.startswith("train/PNEUMONIA/") for path in modes["RGB"])
    assert 0.04 <= len(modes["RGB"]) / plain.counts["train"]["PNEUMONIA"] <= 0.08
    assert 1 <= progressive <= 0.08 * plain.files
    widths, heights = np.array(sizes).T / SMALL
    assert 384 - 2 <= widths.min() <= widths.max() <= 2916 + 2
    assert 127 - 2 <= heights.min() <= heights.max() <= 2713 + 2
    assert widths.mean() == pytest.approx(1328, rel=0.10)
    assert heights.mean() == pytest.approx(971, rel=0.10)
    assert np.mean(widths > heights) > 0.95
    assert len(set(sizes)) > 0.9 * len(sizes)


def test_same_config_gives_the_same_bytes_and_another_seed_does_not(tmp_path, faulty):
    again = write(tmp_path / "a", seed=5, duplicates=3, broken=7)
    other = write(tmp_path / "b", seed=6, duplicates=3, broken=7)
    first, second, third = files_of(faulty.to), files_of(again.to), files_of(other.to)
    assert first == second
    assert (faulty.to / MARKER).read_bytes() == (again.to / MARKER).read_bytes()
    drawn = [data for data in third.values() if len(data) > 1000]
    assert len(drawn) > 12
    assert not set(drawn) & set(first.values())


def test_planting_faults_leaves_all_other_files_as_they_were(tmp_path, faulty):
    clean = files_of(write(tmp_path / "set", seed=5).to)
    spoiled = files_of(faulty.to)
    extra = {copy for _, copy in faulty.duplicates} | {path for path, _ in faulty.broken}
    assert clean == {path: data for path, data in spoiled.items() if path not in extra}
    assert len(spoiled) == len(clean) + 10 == faulty.files


def test_duplicates_are_byte_copies_of_the_same_patient(faulty):
    files = files_of(faulty.to)
    assert len(faulty.duplicates) == 3
    for original, copy in faulty.duplicates:
        assert original != copy
        assert files[original] == files[copy]
        assert Path(original).parent == Path(copy).parent
        assert patient_of(original) == patient_of(copy)
    healthy = set(files) - {path for path, _ in faulty.broken}
    assert len({files[path] for path in healthy}) == len(healthy) - 3, "no copies but the planted ones"


def test_broken_files_are_broken_as_stated(faulty):
    files = files_of(faulty.to)
    assert len(faulty.broken) == 7
    assert {path.split("/")[1] for path, _ in faulty.broken} == {"NORMAL", "PNEUMONIA"}
    kinds = defaultdict(list)
    for path, fault in faulty.broken:
        assert path.startswith("train/")
        patient = patient_of(path)
        assert sum(patient_of(other) == patient for other in files) == 1, "a broken file is a patient of its own"
        kinds[fault].append(files[path])
    truncated, empty, text, damaged, bomb = kinds.values()
    assert [len(of) for of in kinds.values()] == [2, 2, 1, 1, 1]
    for data in truncated:
        assert data.startswith(b"\xff\xd8")
        assert not data.endswith(b"\xff\xd9")
        with Image.open(io.BytesIO(data)) as image, pytest.raises(OSError, match="truncated"):
            image.load()
    assert empty == [b"", b""]
    assert text[0].decode("ascii").rstrip("\n").isprintable()
    assert damaged[0].startswith(b"\xff\xd8")
    assert damaged[0].endswith(b"\xff\xd9")
    simplejpeg.decode_jpeg_header(damaged[0])
    with pytest.raises(ValueError, match="Corrupt JPEG data"):
        simplejpeg.decode_jpeg(damaged[0], colorspace="GRAY")
    assert bomb[0].startswith(b"\x89PNG")
    assert len(bomb[0]) < 10_000
    assert struct.unpack_from(">II", bomb[0], 16) == (60000, 60000)


def test_encoding_tells_the_label_only_when_asked_to(plain, leaky):
    for path, data in files_of(leaky.to).items():
        with Image.open(io.BytesIO(data)) as image:
            table, profile = image.quantization[0], image.info.get("icc_profile")
        if path.startswith("train/NORMAL/"):
            assert table[:3] == [1, 1, 1]
            opened = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
            assert (opened.xcolor_space.strip(), opened.profile_description) == ("GRAY", "Grey, gamma 2.2")
        else:
            assert table[:3] == [8, 6, 5]
            assert profile is None
    first = defaultdict(list)
    for path, data in files_of(plain.to).items():
        with Image.open(io.BytesIO(data)) as image:
            assert "icc_profile" not in image.info
            first[path.split("/")[1]].append(image.quantization[0][0])
    assert all(2 <= entry <= 5 for of in first.values() for entry in of)  # quality 95 to 85
    assert np.mean(first["NORMAL"]) == pytest.approx(np.mean(first["PNEUMONIA"]), abs=0.5)


def test_width_tells_the_label_only_when_asked_to(plain, leaky):
    def mean_widths(folder: Path) -> tuple[float, float]:
        widths = defaultdict(list)
        for path in (folder / "train").rglob("*.jpeg"):
            with Image.open(path) as image:
                widths[path.parent.name].append(image.width)
        return np.mean(widths["NORMAL"]), np.mean(widths["PNEUMONIA"])

    normal, sick = mean_widths(leaky.to)
    assert normal > 1.15 * sick
    normal, sick = mean_widths(plain.to)
    assert normal == pytest.approx(sick, rel=0.15)


LEFT_FIELD, RIGHT_FIELD = np.s_[54:176, 50:170], np.s_[54:176, 210:330]


@pytest.fixture(scope="module")
def added() -> dict[str, list[np.ndarray]]:
    """Brightness added by each finding for ten patients; all else about the two images compared is the same."""

    def draw(seed: int, finding: str) -> np.ndarray:
        return draw_phantom(np.random.default_rng(seed), 270, 380, finding).astype(float)

    normal = [draw(seed, "normal") for seed in range(10)]
    return {of: [draw(seed, of) - normal[seed] for seed in range(10)] for of in ("bacteria", "virus")}


@pytest.mark.parametrize("finding", ["bacteria", "virus"])
def test_findings_brighten_the_lung_fields_and_little_else(added, finding):
    rim = np.pad(np.zeros((238, 332), bool), ((16, 16), (24, 24)), constant_values=True)
    for seed, change in enumerate(added[finding]):
        fields = max(change[LEFT_FIELD].mean(), change[RIGHT_FIELD].mean())
        assert fields > 3, f"seed {seed}: the finding does not show"
        assert fields > 10 * np.abs(change[rim]).mean(), f"seed {seed}: the finding shows outside the lungs"


def test_bacteria_are_focal_and_virus_is_on_both_sides(added):
    def evenness(finding: str) -> float:
        sides = [[change[field].mean() for field in (LEFT_FIELD, RIGHT_FIELD)] for change in added[finding]]
        return float(np.mean([min(of) / max(of) for of in sides]))

    assert evenness("virus") > 0.45
    assert evenness("bacteria") < 0.35


def test_brightness_alone_does_not_tell_the_classes_apart():
    def means(finding: str, first: int) -> np.ndarray:
        return np.array([draw_phantom(np.random.default_rng(first + i), 97, 133, finding).mean() for i in range(28)])

    normal = means("normal", 0)
    ill = np.concatenate([means("bacteria", 1000), means("virus", 2000)])
    auc = np.mean(ill[:, None] > normal[None, :])
    assert 0.35 < auc < 0.75


def test_drawing_is_a_lung_film():
    """Dark lungs between bright spine and soft tissue, in the grey range of the real set."""
    for seed in range(8):
        image = draw_phantom(np.random.default_rng(seed), 270, 380, "normal")
        assert image.dtype == np.uint8
        assert image.shape == (270, 380)
        spine = image[80:180, 175:205].mean()
        assert image[LEFT_FIELD].mean() < spine - 30
        assert image[RIGHT_FIELD].mean() < spine - 20
        assert 70 < image.mean() < 175
        assert image.std() > 25


def test_images_of_one_patient_share_the_body():
    def draw(image: int, body: int) -> np.ndarray:
        picture = draw_phantom(np.random.default_rng(image), 194, 266, "normal", np.random.default_rng(body))
        return picture.astype(float)

    assert np.array_equal(draw(1, 1), draw(1, 1))
    assert np.abs(draw(1, 1) - draw(2, 1)).mean() > 2, "another exposure"
    assert np.abs(draw(1, 1) - draw(1, 2)).mean() > 2, "another patient"


def test_draw_refuses_unknown_findings_and_tiny_sizes():
    with pytest.raises(InputError, match=r"normal, bacteria, virus.*'fungus'"):
        draw_phantom(np.random.default_rng(0), 64, 64, "fungus")
    with pytest.raises(InputError, match=r"at least 32.*height=31"):
        draw_phantom(np.random.default_rng(0), 31, 64, "normal")
    assert draw_phantom(np.random.default_rng(0), 32, 96, "virus").shape == (32, 96)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patients": 11}, "patients=11: expected a whole number of at least 12"),
        ({"patients": 20.5}, "patients=20.5: expected a whole number"),
        ({"seed": -1}, "seed=-1: expected a whole number of at least 0"),
        ({"duplicates": -1}, "duplicates=-1: expected"),
        ({"broken": True}, "broken=True: expected"),
        ({"scale": 0.2}, "scale=0.2: expected at least 0.252"),
        ({"scale": float("nan")}, "scale=nan: expected a number above 0 and at most 4"),
        ({"scale": 9.0}, "scale=9.0: expected a number above 0 and at most 4"),
    ],
)
def test_config_refuses_what_cannot_work(tmp_path, values, message):
    with pytest.raises(InputError, match=message):
        PhantomConfig(tmp_path / "set", **values)


def test_more_duplicates_than_images_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="Received: --duplicates 500"):
        write(tmp_path / "set", duplicates=500)
    assert not (tmp_path / "set").exists()


def test_foreign_directories_are_never_touched(tmp_path):
    mine = tmp_path / "thesis" / "train"
    mine.mkdir(parents=True)
    (mine / "chapter.txt").write_text("keep me")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="not made by this command"):
            write(tmp_path / "thesis", overwrite=overwrite)
    assert [p.name for p in (tmp_path / "thesis").rglob("*")] == ["train", "chapter.txt"]
    assert (mine / "chapter.txt").read_text() == "keep me"


def test_own_directories_are_replaced_only_on_demand(tmp_path):
    to = tmp_path / "set"
    write(to, 13, seed=1)
    before = files_of(to)
    with pytest.raises(OutputError, match="Add --overwrite"):
        write(to, seed=2)
    assert files_of(to) == before
    summary = write(to, seed=2, overwrite=True)
    assert len(files_of(to)) == summary.files
    assert not set(files_of(to).values()) & set(before.values())
    marker = json.loads((to / MARKER).read_text())
    assert marker["complete"] is True
    assert marker["config"]["seed"] == 2


def test_links_inside_an_own_directory_are_not_followed(tmp_path):
    to, precious = tmp_path / "set", tmp_path / "precious"
    write(to)
    precious.mkdir()
    (precious / "file").write_text("keep me")
    (to / "val").rename(tmp_path / "aside")
    (to / "val").symlink_to(precious)
    write(to, overwrite=True)
    assert [p.name for p in precious.iterdir()] == ["file"]
    assert not (to / "val").is_symlink()


def test_a_file_in_the_way_is_an_output_error(tmp_path):
    (tmp_path / "note").write_text("a file")
    with pytest.raises(OutputError, match="expected a directory, found a file"):
        write(tmp_path / "note")
    with pytest.raises(OutputError, match="Not a directory"):
        write(tmp_path / "note" / "set")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_place_is_an_output_error(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        write(locked / "set")


def test_a_killed_run_can_be_written_over(tmp_path):
    to = tmp_path / "set"
    command = [sys.executable, "-m", "phantoms.phantom", "--to", str(to), "--patients", "500"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while len(list(to.rglob("*.jpeg"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert len(list(to.rglob("*.jpeg"))) >= 2
    assert json.loads((to / MARKER).read_text())["complete"] is False
    summary = write(to, overwrite=True)
    assert len(files_of(to)) == summary.files


def test_command_writes_and_sums_up(tmp_path, capsys):
    to = tmp_path / "set"
    options = ["--to", str(to), "--patients", "12", "--seed", "3", "--scale", "0.25", "--duplicates", "1"]
    assert main([*options, "--broken", "2"]) == 0
    shown = capsys.readouterr().out
    assert f"Wrote {len(files_of(to))} files to {to}" in shown
    assert re.search(r"train +\d+ +\d+\nval +1 +1\ntest +\d+ +\d+\n", shown)
    assert "duplicates planted: 1" in shown
    assert "broken files planted: 2" in shown
    assert "a file of zero bytes" in shown

    assert run_command(main, options) == 1
    assert "error: Cannot write phantoms" in capsys.readouterr().err

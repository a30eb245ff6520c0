"""The job in one process: what it writes, what it refuses, and that it can be run again."""

from __future__ import annotations

import csv
import errno
import functools
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from beam_jobs import job as job_module
from beam_jobs.execution.pipeline import check_beam_arguments, is_local, make_options
from beam_jobs.execution.workspace import Workspace
from beam_jobs.preprocess import main
from beam_jobs.results.job_log import LOG_NAME
from beam_jobs.sources.naming import kermany_patient
from beam_jobs.sources.stores import Folder
from cxr.console import run_command
from cxr.errors import CxrError, DatasetError, InputError, OutputError, UsageError
from tests.beam_jobs.conftest import IN_PROCESS, run
from tfrecords.format.manifest import read_manifest
from tfrecords.format.schema import Record
from tfrecords.images import codec
from tfrecords.inspect import read_split
from tfrecords.verify import verify


def command(*arguments: object) -> int:
    """What the shell would get from `cxr preprocess ARGUMENTS`, in this process."""
    return run_command(main, [*map(str, arguments), *IN_PROCESS, "--quiet"])


def records_of(root: Path, rung: str = "full") -> Iterator[tuple[str, Record]]:
    """Every record of a rung, with its split."""
    manifest = read_manifest(root)
    return ((split, record) for split in manifest.splits for record in read_split(root, manifest, rung, split))


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, without the logs of jobs, which hold times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name != LOG_NAME
    }


@pytest.fixture(scope="module")
def made(phantoms, tmp_path_factory) -> Callable[..., Path]:
    """`made(*sizes)`: a data set of the phantoms with these rungs, made once, to be read only."""

    @functools.cache
    def make(*sizes: int) -> Path:
        output = tmp_path_factory.mktemp("made") / "data"
        run(phantoms, output, sizes=sizes)
        return output

    return make


@pytest.fixture
def dataset(made) -> Path:
    return made(64, 32)


@pytest.fixture
def earlier(made, tmp_path) -> Path:
    """A finished data set with one rung, to be replaced."""
    return shutil.copytree(made(32), tmp_path / "data")


@pytest.fixture
def images(phantoms, tmp_path) -> Path:
    """A copy of the phantoms, to be changed."""
    return shutil.copytree(phantoms, tmp_path / "images")


def test_every_image_is_there_once_with_the_pixels_of_its_file(phantoms, dataset):
    manifest = read_manifest(dataset)
    sources = {str(path.relative_to(phantoms)) for path in phantoms.rglob("*.jpeg")}
    seen = []
    for _, record in records_of(dataset):
        with Image.open(phantoms / record.path) as image:
            expected = np.asarray(image)
        expected = expected[..., :1] if expected.ndim == 3 else expected[..., None]
        np.testing.assert_array_equal(codec.decode(record), expected)
        assert manifest.labels[record.label] == record.path.split("/")[1]
        assert record.patient == kermany_patient(record.path, normal=True)
        assert record.image == (phantoms / record.path).read_bytes(), "source encoding keeps the file"
        seen.append(record.path)
    assert sorted(seen) == sorted(sources)


def test_rungs_hold_the_same_records_in_the_same_order(dataset):
    assert verify(dataset, deep=True) == []
    for size in (64, 32):
        for (split, small), (of, large) in zip(records_of(dataset, str(size)), records_of(dataset), strict=True):
            assert (split, small.path) == (of, large.path)
            np.testing.assert_array_equal(codec.decode(small), codec.area_downscale(codec.decode(large), size))


def test_tiny_validation_split_is_joined_and_carved_by_patient(phantoms, dataset):
    manifest = read_manifest(dataset)
    assert list(manifest.splits) == ["train", "val", "test"]
    patients = [{record.patient for of, record in records_of(dataset) if of == split} for split in ("train", "val")]
    assert not patients[0] & patients[1]
    tests = {str(path.relative_to(phantoms)) for path in (phantoms / "test").rglob("*.jpeg")}
    assert {record.path for split, record in records_of(dataset) if split == "test"} == tests
    assert manifest.splits["val"].images > len(list((phantoms / "val").rglob("*.jpeg")))


def test_manifest_says_what_numpy_says(phantoms, dataset):
    manifest = read_manifest(dataset)
    images = [(split, codec.decode(record)) for split, record in records_of(dataset)]
    train = [image / 255 for split, image in images if split == "train"]
    mean = np.mean([image.mean() for image in train])
    std = np.sqrt(np.mean([(image**2).mean() for image in train]) - mean**2)
    assert manifest.pixels == pytest.approx({"mean": mean, "std": std}, abs=1e-6)
    everything = [image for _, image in images]
    assert manifest.sizes["pixels"] == sum(image.size for image in everything)
    assert manifest.sizes["height"]["max"] == max(image.shape[0] for image in everything)
    step = manifest.sizes["step"]
    cells = {(row[0], row[1]): row[2] for row in manifest.sizes["counts"]}
    assert sum(cells.values()) == len(everything)
    assert cells[everything[0].shape[0] // step, everything[0].shape[1] // step] >= 1


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_encodings_differ_in_bytes_and_not_in_pixels(phantoms, dataset, tmp_path, encoding):
    run(phantoms, tmp_path / "data", encoding=encoding)
    assert read_manifest(tmp_path / "data").source["pixels"] == read_manifest(dataset).source["pixels"]
    roots = (tmp_path / "data", dataset)
    found, expected = ({(split, record.path): record for split, record in records_of(root)} for root in roots)
    assert found.keys() == expected.keys()
    for place, record in found.items():
        assert record.encoding == encoding
        assert record.pixel_hash == expected[place].pixel_hash
        np.testing.assert_array_equal(codec.decode(record), codec.decode(expected[place]))
    assert verify(tmp_path / "data", deep=True) == []


def test_a_zip_gives_the_same_shards_as_its_folder(phantoms, dataset, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "images"), "zip", phantoms)
    run(archive, tmp_path / "data", sizes=(64, 32))
    assert files_of(tmp_path / "data" / "full") == files_of(dataset / "full")


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_the_order_of_a_table_does_not_matter(phantoms, tmp_path):
    rows = []
    for path in sorted(phantoms.rglob("*.jpeg")):
        patient = kermany_patient(path.name, normal=True)
        rows.append({"path": str(path.relative_to(phantoms)), "label": path.parent.name, "patient": patient})
    for name, ordered in (("a", rows), ("b", rows[::-1])):
        write_table(tmp_path / f"{name}.csv", ordered)
        run(tmp_path / f"{name}.csv", tmp_path / name, images_root=str(phantoms), split="patient")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_tfds_data_set_goes_through_the_whole_job(phantoms, dataset, tmp_path):
    """A finished data set is itself one that TFDS can name, so it serves as the source."""
    tfds = pytest.importorskip("tensorflow_datasets", reason="TFDS sources need pip install 'cxr-stream[train]'")
    folder = tmp_path / "tfds" / "cxr" / "1.0.0"
    shutil.copytree(dataset / "64", folder)
    assert tfds.builder("cxr", data_dir=tmp_path / "tfds").info.splits["test"].num_examples > 0
    with pytest.raises(InputError, match="expected an Image"):  # a raw rung has no encoded images
        run("tfds:cxr", tmp_path / "data", tfds_data_dir=str(tmp_path / "tfds"))
    shutil.rmtree(folder)
    shutil.copytree(dataset / "full", folder)
    run("tfds:cxr", tmp_path / "data", tfds_data_dir=str(tmp_path / "tfds"))
    assert read_manifest(tmp_path / "data").splits["test"].labels == read_manifest(dataset).splits["test"].labels
    roots = (tmp_path / "data", dataset)
    found, expected = (sorted((split, record.pixel_hash) for split, record in records_of(root)) for root in roots)
    assert found == expected
    assert run("tfds:cxr", tmp_path / "data", tfds_data_dir=str(tmp_path / "tfds")).already_complete


def test_multi_label_table(phantoms, tmp_path):
    paths = sorted(phantoms.rglob("*.jpeg"))[:40]
    labels = ["edema|effusion", "effusion", "", "edema|mass|effusion"]
    rows = [
        {"path": str(path.relative_to(phantoms)), "label": labels[index % 4], "split": "train"}
        for index, path in enumerate(paths)
    ]
    write_table(tmp_path / "table.csv", rows)
    run(tmp_path / "table.csv", tmp_path / "data", images_root=str(phantoms), missing="negative")
    manifest = read_manifest(tmp_path / "data")
    assert manifest.multi_label
    assert manifest.labels == ("edema", "effusion", "mass")
    found = {record.path: record.label for _, record in records_of(tmp_path / "data")}
    expected = [(0, 1), (1,), (), (0, 1, 2)]
    assert found == {row["path"]: expected[index % 4] for index, row in enumerate(rows)}
    assert verify(tmp_path / "data") == []


def test_duplicates_are_found_dropped_or_refused(phantoms, dataset, tmp_path):
    groups = json.loads((dataset / "audit.json").read_text())["duplicates"]["groups"]
    assert len(groups) == 2
    with pytest.raises(InputError, match=r"2 images repeat the pixels of another: .*\.jpeg = "):
        run(phantoms, tmp_path / "fail", duplicates="fail")
    summary = run(phantoms, tmp_path / "drop", duplicates="drop")
    kept = {record.path for _, record in records_of(tmp_path / "drop")}
    for group in groups:
        assert len(kept & set(group["paths"])) == 1
    dropped = [path for group in groups for path in group["paths"] if path not in kept]
    assert [path for path, _ in summary.rejects] == sorted(dropped)
    assert summary.audit["duplicates"]["extra_copies"] == 0


def test_equal_pixels_with_different_labels_cannot_be_dropped(images, tmp_path):
    normal = next((images / "train" / "NORMAL").iterdir())
    shutil.copy(normal, images / "train" / "PNEUMONIA" / "person900_virus_1.jpeg")
    with pytest.raises(InputError, match="different labels"):
        run(images, tmp_path / "data", duplicates="drop")
    report = run(images, tmp_path / "data").audit
    assert report["duplicates"]["across_labels"] == 1


@pytest.fixture
def broken(images) -> Path:
    """The phantoms with one file that cannot be recognised, and one whose pixels are damaged."""
    victims = sorted((images / "train" / "PNEUMONIA").iterdir())
    victims[0].write_text("not an image")
    data = victims[1].read_bytes()
    victims[1].write_bytes(data[: len(data) // 2])
    return images


def test_broken_images_fail_the_job_before_anything_looks_whole_or_are_left_out(broken, tmp_path):
    with pytest.raises(InputError, match=r"1 of .* images cannot be used") as failure:
        run(broken, tmp_path / "data")
    assert "not an image" in str(failure.value)
    assert "only headers were read" in str(failure.value)
    share = 1.5 / len(list(broken.rglob("*.jpeg")))
    with pytest.raises(InputError, match="Premature end"):
        run(broken, tmp_path / "data", max_reject_fraction=share)
    with pytest.raises(DatasetError, match="manifest"):
        read_manifest(tmp_path / "data")
    shards = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data/.work/build/full").glob("*.tfrecord-*")}

    # left out where that is allowed, and listed; the shards that there are stay
    summary = run(broken, tmp_path / "data", max_reject_fraction=0.1)
    assert summary.kept_shards == len(shards) > 1
    for name, modified in shards.items():
        assert (tmp_path / "data" / "full" / name).stat().st_mtime_ns == modified
    rows = [json.loads(line) for line in (tmp_path / "data" / "rejects.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == [
        str(path.relative_to(broken)) for path in sorted((broken / "train" / "PNEUMONIA").iterdir())[:2]
    ]
    assert all(row["kind"] == "unreadable" and row["reason"] for row in rows)
    images = sum(split.images for split in summary.manifest.splits.values())
    assert images == len(list(broken.rglob("*.jpeg"))) - 2
    assert verify(tmp_path / "data", deep=True) == []


def test_a_mended_file_is_counted(phantoms, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(phantoms, images)
    cut = min((images / "train" / "NORMAL").glob("*.jpeg"))
    baseline = io.BytesIO()
    Image.open(cut).convert("L").save(baseline, "JPEG", quality=90)
    cut.write_bytes(baseline.getvalue()[:-2])  # without its end marker
    summary = run(images, tmp_path / "data")
    path = cut.relative_to(images).as_posix()
    assert list(summary.audit["repaired"]) == [path]
    assert any(f"1 files were mended, {path} the first" in note for note in summary.audit["notes"])


def test_a_picture_with_nothing_in_it_is_a_reject(phantoms, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(phantoms, images)
    Image.fromarray(np.zeros((300, 300), np.uint8)).save(images / "train" / "NORMAL" / "black.png")
    deep = (np.add.outer(np.arange(64), np.arange(64)) * 32).astype(np.uint16)  # 12 bits on a scale of 16
    Image.fromarray(deep).save(images / "train" / "NORMAL" / "dark.png")
    run(images, tmp_path / "data", max_reject_fraction=0.1, scale="full")
    rows = [json.loads(line) for line in (tmp_path / "data" / "rejects.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == ["train/NORMAL/black.png", "train/NORMAL/dark.png"]
    assert "100.0% of its pixels are black" in rows[0]["reason"]
    assert "uses 12 of them" in rows[1]["reason"]


def test_running_again_does_nothing(phantoms, dataset, capsys):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    assert command("--input", phantoms, "--output", dataset, "--sizes", "64,32") == 0
    assert "already complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


def test_another_data_set_is_only_replaced_on_demand(phantoms, earlier, made):
    with pytest.raises(OutputError, match=r"another data set \(--sizes was \[32\] and is \[64\]\)"):
        run(phantoms, earlier, sizes=(64,))
    assert verify(earlier) == []
    run(phantoms, earlier, sizes=(64,), overwrite=True)
    assert verify(earlier) == []
    assert files_of(earlier) == files_of(made(64))


def test_a_changed_source_is_another_data_set(images, earlier):
    next((images / "train" / "NORMAL").iterdir()).unlink()
    with pytest.raises(OutputError, match="the images of the source have changed"):
        run(images, earlier, sizes=(32,))


def test_the_old_data_set_stays_whole_until_the_new_one_is(phantoms, earlier, monkeypatch):
    old = files_of(earlier)

    monkeypatch.setattr(job_module, "finish", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(phantoms, earlier, overwrite=True)
    assert {name: data for name, data in files_of(earlier).items() if not name.startswith(".work")} == old
    assert verify(earlier) == []


@pytest.mark.parametrize("moves", range(5))
def test_a_publication_stopped_anywhere_is_carried_on(phantoms, earlier, made, monkeypatch, moves):
    """Renames are what publication consists of; it is stopped after each number of them."""
    done = 0
    replace = Path.replace

    def stop_after(path, target):
        nonlocal done
        if ".work/build" in str(path.parent) and not path.name.startswith(".tmp-") and ".work" not in str(target):
            if done == moves:
                raise KeyboardInterrupt
            done += 1
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop_after)
        with pytest.raises(KeyboardInterrupt):
            run(phantoms, earlier, overwrite=True, sizes=(64,))
    with pytest.raises(DatasetError, match="manifest"):
        read_manifest(earlier)
    run(phantoms, earlier, sizes=(64,))
    assert files_of(earlier) == files_of(made(64))


def test_a_foreign_directory_is_never_replaced(phantoms, tmp_path):
    """Neither a manifest of something else, nor a folder called `full` or a number, makes a directory ours."""
    mine = tmp_path / "data"
    for name in ("manifest.json", "full/precious.txt", "2024/mine.txt", ".work/notes.txt"):
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text('{"name": "my extension"}')
    before = files_of(mine)
    with pytest.raises(OutputError, match="holds something else"):
        run(phantoms, mine, overwrite=True)
    assert files_of(mine) == before


def test_files_beside_a_data_set_survive_its_replacement(phantoms, earlier):
    for name in ("notes.txt", "2024/mine.txt"):
        (earlier / name).parent.mkdir(exist_ok=True)
        (earlier / name).write_text("mine")
    run(phantoms, earlier, overwrite=True)
    assert (earlier / "notes.txt").read_text() == (earlier / "2024" / "mine.txt").read_text() == "mine"
    assert not (earlier / "32").exists()
    with pytest.raises(OutputError, match="2024 is in the way"):
        run(phantoms, earlier, overwrite=True, sizes=(2024,))
    assert (earlier / "2024" / "mine.txt").read_text() == "mine"


def test_a_rung_that_was_moved_elsewhere_and_linked(phantoms, earlier, tmp_path):
    (earlier / "full").rename(tmp_path / "elsewhere")
    (earlier / "full").symlink_to(tmp_path / "elsewhere")
    run(phantoms, earlier, overwrite=True)
    assert verify(earlier) == []
    assert len(list((tmp_path / "elsewhere").iterdir())) > 3, "what a link leads to is not touched"


def test_a_job_killed_after_its_last_move_is_finished(phantoms, tmp_path, monkeypatch):
    output = tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "close", Mock(side_effect=KeyboardInterrupt))
        patch.setattr(Workspace, "_clear", Mock())
        with pytest.raises(KeyboardInterrupt):
            run(phantoms, output)
    assert verify(output) == []
    assert (output / ".work" / "job.json").exists()
    with pytest.raises(OutputError, match="holds another data set"):
        run(phantoms, output, sizes=(32,))
    assert run(phantoms, output).already_complete
    assert not (output / ".work").exists()


def test_a_mended_image_is_taken_up_and_the_other_shards_are_kept(images, made, tmp_path):
    victim = sorted((images / "train" / "PNEUMONIA").iterdir())[5]
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    with pytest.raises(InputError, match="damaged JPEG"):
        run(images, tmp_path / "data")
    victim.write_bytes(whole)
    summary = run(images, tmp_path / "data")
    shards = sum(len(shards) for shards in summary.manifest.rungs["full"].shards.values())
    assert summary.kept_shards == shards - 1 > 0
    assert files_of(tmp_path / "data") == files_of(made())


def test_a_changed_source_leaves_no_shard_of_the_old_one(images, tmp_path):
    victims = sorted((images / "train" / "PNEUMONIA").iterdir())
    data = victims[0].read_bytes()
    victims[0].write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError):
        run(images, tmp_path / "data")
    for victim in victims[: len(victims) // 2]:
        victim.unlink()
    run(images, tmp_path / "data")
    run(images, tmp_path / "fresh")
    assert files_of(tmp_path / "data") == files_of(tmp_path / "fresh")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_of_which_nothing_can_be_decoded(images, tmp_path, split):
    for path in (images / split).rglob("*.jpeg"):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(InputError, match=f"split '{split}' would be empty: none of its images can be decoded"):
        run(images, tmp_path / "data", max_reject_fraction=1.0, val_fraction=0)
    assert not (tmp_path / "data" / "manifest.json").exists()


def test_an_output_inside_the_input_is_refused_before_it_is_made(images):
    for output in (images / "data", images):
        with pytest.raises(InputError, match="lies inside the input"):
            run(images, output)
    assert sorted(path.name for path in images.iterdir() if path.is_dir()) == ["test", "train", "val"]


def test_a_read_error_stops_the_job_and_is_forgotten(phantoms, tmp_path, monkeypatch):
    """A share that is gone for a moment must not turn good images into rejects."""
    read = Folder.read

    def flaky(source, path, limit=-1):
        if limit < 0 and path.endswith("_3.jpeg"):
            raise InputError(f"cannot read {path}: Stale file handle")
        return read(source, path, limit)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "read", flaky)
        with pytest.raises(CxrError, match="Stale file handle"):
            run(phantoms, tmp_path / "data", max_reject_fraction=0.5)
    assert run(phantoms, tmp_path / "data", max_reject_fraction=0.5).rejects == ()


def test_8_and_16_bit_copies_of_a_picture_are_duplicates(tmp_path):
    rng = np.random.default_rng(1)
    for split in ("train", "val", "test"):
        for label in ("A", "B"):
            (tmp_path / "in" / split / label).mkdir(parents=True)
            pixels = rng.integers(0, 256, (40, 50), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "in" / split / label / "a.png")
    deep = pixels.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "in" / "test" / "B" / "b.png")
    summary = run(tmp_path / "in", tmp_path / "data", duplicates="drop")
    assert summary.rejects == (("test/B/b.png", "the same pixels as test/B/a.png"),)
    assert summary.audit["duplicates"]["extra_copies"] == 0
    kept = run(tmp_path / "in", tmp_path / "kept")
    assert kept.audit["duplicates"]["extra_copies"] == 1
    assert kept.manifest.bit_depth == 16
    assert verify(tmp_path / "kept", deep=True) == []


def test_a_disk_that_fills_up_in_the_driver_is_no_traceback(phantoms, tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "index")
    monkeypatch.setattr(job_module, "write_tasks", Mock(side_effect=full))
    with pytest.raises(OutputError, match=r"No space left on device \(index\)"):
        run(phantoms, tmp_path / "data")


def test_the_direct_runner_is_the_local_one():
    for name in ("DirectRunner", "directrunner", "FnApiRunner"):
        options = make_options([f"--runner={name}"], workers=3)
        assert is_local(options)
        found = options.get_all_options()
        assert (found["direct_running_mode"], found["direct_num_workers"]) == ("multi_processing", 3)
    assert not is_local(make_options(["--runner=PortableRunner"], workers=3))


def test_workers_below_zero_are_refused():
    with pytest.raises(UsageError, match="--direct_num_workers -3: expected a whole number of at least 0"):
        check_beam_arguments(["--direct_num_workers", "-3"], [])


REFUSALS = {
    "missing input": (["--input", "{tmp}/nothing"], "does not exist"),
    "empty input": (["--input", "{tmp}/empty"], "is empty"),
    "no splits": (["--input", "{images}/train", "--split", "folder"], "have no split"),
    "ignored fractions": (["--input", "{images}", "--fractions", "0.5,0.25,0.25"], "expected --split patient"),
    "ignored val fraction": (["--input", "{images}/train", "--val-fraction", "0.3"], "expected --fractions"),
    "stray argument": (["--input", "{images}", "more"], "unknown argument 'more'"),
    "fractions": (["--input", "{images}", "--fractions", "0.5,0.2,0.2"], "expected numbers that sum to 1"),
    "not a number": (["--input", "{images}", "--sizes", "512,big"], "each a whole number of at least 8"),
    "unknown option": (["--input", "{images}", "--val-fracton=0.2"], "did you mean --val-fraction?"),
    "a value for Beam": (["--input", "{images}", "--direct_num_workers", "x"], "--direct_num_workers: invalid int"),
    "no input at all": (["--input", ""], "expected a folder, a .zip, a table or tfds:NAME"),
    "unknown label": (["--input", "{images}", "--classes", "NORMAL,COVID"], "unknown label 'PNEUMONIA'"),
    "empty split": (["--input", "{tmp}/few", "--split", "patient"], "would be empty"),
    "one class": (["--input", "{tmp}/one"], "at least two classes"),
    "nothing readable": (["--input", "{tmp}/text"], "none of the 2 images"),
    "foreign output": (["--input", "{images}", "--output", "{tmp}/foreign"], "holds something else"),
    "output is a file": (["--input", "{images}", "--output", "{tmp}/foreign/notes.txt"], "is a file"),
    "unwritable output": (["--input", "{images}", "--output", "/proc/nowhere/data"], "cannot write to"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case, phantoms, tmp_path, capsys):
    arguments, message = REFUSALS[case]
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    for place, image in zip(("few/a", "few/b", "one/a", "text/a", "text/b"), phantoms.rglob("*.jpeg"), strict=False):
        (tmp_path / place).mkdir(parents=True)
        content = b"text" if place.startswith("text") else image.read_bytes()
        (tmp_path / place / "x.jpeg").write_bytes(content)
    before = files_of(tmp_path)
    filled = [argument.format(tmp=tmp_path, images=phantoms) for argument in arguments]
    if "--output" not in filled:
        filled += ["--output", str(tmp_path / "data")]
    assert command(*filled) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "data" / "manifest.json").exists()
    after = {name: data for name, data in files_of(tmp_path).items() if not name.startswith("data/.work")}
    assert after == before


def test_a_disk_that_is_too_small_is_seen_before_writing(phantoms, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(OutputError, match=r"needs about .* 1000 B free"):
        run(phantoms, tmp_path / "data")
    assert not list((tmp_path / "data" / ".work" / "results").glob("*"))


def test_settings_may_be_corrected_before_any_shard_is_written(phantoms, tmp_path):
    with pytest.raises(InputError):
        run(phantoms, tmp_path / "data", classes=("NORMAL", "COVID"))
    run(phantoms, tmp_path / "data")
    assert verify(tmp_path / "data") == []


def test_progress_bar_and_closing_table(phantoms, tmp_path, capfd):
    assert main(["--input", str(phantoms), "--output", str(tmp_path / "data"), "--sizes", "64", *IN_PROCESS]) == 0
    out, err = capfd.readouterr()
    assert "writing shards: 100%" in err
    assert "images/s" in err
    for expected in ("split", "patients", "NORMAL", "rung", "short side 64", "audit", "images/s", "none rejected"):
        assert expected in out

"""What is said of a file is what is said of its record, and a bad file stops nothing."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from beam_jobs.job import preprocess
from beam_jobs.preprocess_config import PreprocessConfig
from cxr.errors import DatasetError, InputError, OutputError
from tfrecords.dataset import open_dataset
from tfrecords.images import codec
from trainer.evaluation.operating_point import OperatingPoint, write_operating_point
from trainer.facts import DataFacts
from trainer.predict import main, operating_point_of, predict_files, write_predictions
from trainer.serving.image_files import FileLoader, ImageFile, list_image_files, read_ahead
from trainer.training.classifier import build_classifier
from trainer.training.trained import load_model
from trainer.training.validation import predict_images, predict_split

ARGMAX = OperatingPoint("argmax", {})


@pytest.fixture(scope="module")
def model(trained):
    return load_model(trained)


def picture(height: int, width: int, channels: int = 1, bit_depth: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 2**bit_depth, (5, 4, channels)).astype(np.uint16 if bit_depth == 16 else np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)


def save(path: Path, pixels: np.ndarray, kind: str = "PNG", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "PNG":
        path.write_bytes(codec.encode_png(pixels))
    else:
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path, kind, **options)
    return path


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# Files and records


def record_probabilities(model, data, config, **stream) -> dict[str, np.ndarray]:
    found = {}
    for split in data.splits:
        predictions = predict_split(model, data, split, config, **stream)
        found.update(zip(predictions.paths.tolist(), predictions.probabilities, strict=True))
    return found


def test_a_file_gets_the_probabilities_of_its_record(model, trained, data, phantoms):
    files = list_image_files([str(phantoms)])

    def of_files(through_rung: bool) -> dict[str, np.ndarray]:
        loader = FileLoader(trained.config, trained.facts, through_rung=through_rung)
        found = predict_files(model, loader, files, ARGMAX, threads=3)
        return {Path(one.name).relative_to(phantoms).as_posix(): one.probabilities for one in found}

    by_rung, by_full = of_files(True), of_files(False)
    rung = record_probabilities(model, data, trained.config)  # training read the rung of 64 pixels
    full = record_probabilities(model, data, trained.config, rung="full")
    assert by_rung.keys() == rung.keys() and len(rung) > 64
    assert all(np.array_equal(by_rung[path], rung[path]) for path in rung)
    assert all(np.array_equal(by_full[path], full[path]) for path in full)
    assert 0 < max(np.abs(by_rung[path] - by_full[path]).max() for path in rung) < 0.02


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
def test_every_kind_of_file_is_fitted_as_its_record_is(mixed, small, fit):
    root, data = mixed
    for channels in (1, 3):
        facts = dataclasses.replace(DataFacts.of(data), channels=channels)
        loader = FileLoader(small(fit=fit, image_size=[40, 48]), facts)
        stream = data.stream(
            "train", image_size=(40, 48), fit=fit, rung="full", channels=channels, metadata=True, cache="none"
        )
        seen = 0
        for images, _, extra in stream.as_numpy_iterator():
            for image, path in zip(images, extra["path"], strict=True):
                np.testing.assert_array_equal(loader.decode((root / path.decode()).read_bytes()), image)
                seen += 1
        assert seen == 8


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A folder of files of every kind, and the data set of them, of 16 bits."""
    root = tmp_path_factory.mktemp("mixed") / "images"
    for label in ("a", "b"):
        save(root / "train" / label / "grey.png", picture(60, 70))
        save(root / "train" / label / "colour.jpeg", picture(90, 50, 3), "JPEG", quality=80)
        save(root / "train" / label / "deep.png", picture(45, 64, bit_depth=16, seed=ord(label)))
        exif = Image.Exif()
        exif[0x0112] = 6
        save(root / "train" / label / "turned.tiff", picture(33, 80, seed=ord(label)), "JPEG", exif=exif)
    output = root.parent / "data"
    preprocess(
        PreprocessConfig(input=str(root), output=str(output), val_fraction=0.0), ["--direct_num_workers=1"], True
    )
    data = open_dataset(output)
    assert data.bit_depth == 16 and data.channels == 3
    return root, data


def test_depths_and_channels_that_the_data_set_has_not(trained, tmp_path):
    loader = FileLoader(trained.config, trained.facts)
    grey = picture(50, 60)
    expected = loader.decode(codec.encode_png(grey))
    assert expected.shape == (32, 32, 1) and expected.dtype == np.uint8
    deep = codec.encode_png(grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(loader.decode(deep), expected)
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    np.testing.assert_array_equal(codec.lower_depth(every), np.rint(every / 257).astype(np.uint8), strict=True)

    colour = picture(50, 60, 3)
    luma = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)[..., None]
    np.testing.assert_array_equal(loader.decode(codec.encode_png(colour)), loader.decode(codec.encode_png(luma)))


# Which files


def test_folders_are_looked_through_in_order_without_what_is_no_image(tmp_path):
    for name in ("b/2.png", "b/10.png", "a/x.dcm", "z.jpeg", ".hidden/1.png", "a/.DS_Store", "Thumbs.db", "notes.txt",
                 "b/labels.CSV"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    found = [Path(file.name).relative_to(tmp_path).as_posix() for file in list_image_files([str(tmp_path)])]
    assert found == ["a/x.dcm", "b/10.png", "b/2.png", "z.jpeg"]


def test_tables_name_files_relative_to_themselves_or_to_a_root(tmp_path):
    (tmp_path / "list.csv").write_text("Path,other\none.png,1\nsub/two.png,2\none.png,3\n")
    (tmp_path / "list.jsonl").write_text('{"path": "three.png", "label": 0}\n')
    csv_files = list_image_files([str(tmp_path / "list.csv")])
    assert [file.name for file in csv_files] == ["one.png", "sub/two.png", "one.png"]
    assert csv_files[1].path == str(tmp_path / "sub" / "two.png")
    (json_file,) = list_image_files([str(tmp_path / "list.jsonl")], images_root="/elsewhere")
    assert json_file == ImageFile("three.png", "/elsewhere/three.png")


@pytest.mark.parametrize(("name", "content", "given", "message"), [
    ("", "", "absent.png", "does not exist"),
    ("", "", "", "no image in"),
    ("a.txt", "x", "", "1 documents"),
    ("t.csv", "image\nx\n", "t.csv", "column path is"),
    ("t.csv", "path,n\n,1\n", "t.csv", "line 2: the path"),
    ("manifest.json", "{}", "", "cxr evaluate"),
])  # fmt: skip
def test_inputs_that_name_nothing_are_refused(tmp_path, name, content, given, message):
    if name:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        list_image_files([str(tmp_path / given)])


def test_images_root_is_for_tables(tmp_path):
    with pytest.raises(InputError, match="only a table"):
        list_image_files([str(save(tmp_path / "a.png", picture(9, 9)))], str(tmp_path))


# Reading ahead


def test_only_so_many_images_are_held_and_leaving_stops_the_rest():
    done, lock = [], threading.Lock()

    def load(file: ImageFile) -> np.ndarray:
        with lock:
            done.append(file.name)
        return np.zeros(1)

    files = [ImageFile(str(number), "") for number in range(100)]
    reading = read_ahead(files, load, threads=3, ahead=5)
    assert [next(reading)[0].name for _ in range(4)] == ["0", "1", "2", "3"]
    assert len(done) <= 4 + 5
    reading.close()
    assert len(done) <= 4 + 5


# The command


def test_bad_images_do_not_stop_the_others(trained, tmp_path, capsys):
    good = save(tmp_path / "good.png", picture(40, 40))
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:-30])
    (tmp_path / "empty.jpeg").write_bytes(b"")
    (tmp_path / "list.csv").write_text("path\ngood.png\nabsent.png\n")
    save(tmp_path / "black.png", np.zeros((40, 40, 1), np.uint8))
    given = [str(tmp_path / name) for name in ("cut.png", "list.csv", "empty.jpeg", "good.png", "black.png")]
    assert main([*given, "--run", str(trained.root)]) == 1
    out, err = capsys.readouterr()
    found = rows(out)
    names = ["cut.png", "good.png", "absent.png", "empty.jpeg", "good.png", "black.png"]
    assert [Path(row["path"]).name for row in found] == names
    for place, fault in ((0, "truncated"), (2, "No such file"), (3, "empty"), (5, "there is nothing in the picture")):
        assert fault in found[place]["error"]
    assert found[0]["predicted"] == found[0]["p:NORMAL"] == ""
    assert found[1]["error"] == "" and found[1]["p:NORMAL"] == found[4]["p:NORMAL"]
    assert np.isclose(float(found[1]["p:NORMAL"]) + float(found[1]["p:PNEUMONIA"]), 1)
    assert "4 of 6 images could not be used" in err and "note: no operating point" in err


def test_csv_and_json_lines_say_the_same(run, tmp_path, model, capsys):
    point = OperatingPoint("recall=0.9", {"PNEUMONIA": 1e-6})
    write_operating_point(run.operating_point, point, run.weights_digest())
    paths = [str(save(tmp_path / f"{number}.png", picture(40, 50, seed=number))) for number in range(3)]
    assert main([*paths, "--run", str(run.root), "--output", str(tmp_path / "out.jsonl")]) == 0
    assert main([*paths, "--run", str(run.root)]) == 0
    out, err = capsys.readouterr()
    assert "note" not in err
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    table = rows(out)
    loader = FileLoader(run.config, run.facts)
    expected = predict_images(model, np.stack([loader.decode(Path(path).read_bytes()) for path in paths]))
    for line, row, path, probabilities in zip(lines, table, paths, expected, strict=True):
        assert line["path"] == row["path"] == path and line["error"] is None
        assert line["predicted"] == row["predicted"] == "PNEUMONIA"
        for label, probability in zip(("NORMAL", "PNEUMONIA"), probabilities, strict=True):
            assert np.float32(line["probabilities"][label]) == np.float32(row[f"p:{label}"]) == probability


def test_an_output_file_appears_whole_or_not_at_all(trained, tmp_path):
    image, out = str(save(tmp_path / "a.png", picture(40, 40))), tmp_path / "out.csv"
    out.write_text("old")
    with pytest.raises(DatasetError, match="not a run"):
        main([image, "--run", str(tmp_path / "none"), "--output", str(out)])
    assert out.read_text() == "old"
    assert main([image, "--run", str(trained.root), "--output", str(out), "--quiet"]) == 0
    assert len(rows(out.read_text())) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "out.csv"]
    with pytest.raises(OutputError, match="No such file"):
        main([image, "--run", str(trained.root), "--output", str(tmp_path / "absent" / "out.csv")])


def test_the_operating_point(run, model, data):
    assert operating_point_of(run, "argmax") == (ARGMAX, None)
    assert operating_point_of(run, "threshold=0.2")[0].thresholds == {"PNEUMONIA": 0.2}
    point, note = operating_point_of(run)
    assert point.rule == "argmax" and "cxr evaluate" in note

    validation = predict_split(model, data, "val", run.config)
    chosen, _ = operating_point_of(run, "recall=0.9", model)
    assert chosen == OperatingPoint.choose(validation, "recall=0.9", "PNEUMONIA")
    assert not run.operating_point.exists()

    write_operating_point(run.operating_point, chosen, run.weights_digest())
    assert operating_point_of(run) == operating_point_of(run, "recall=0.9") == (chosen, None)
    assert operating_point_of(run, "threshold=0.2")[0].rule == "threshold=0.2"
    run.operating_point.write_text("{")
    with pytest.raises(DatasetError, match=r"operating_point\.json cannot be read"):
        operating_point_of(run)


def test_a_rule_that_needs_validation_says_where_it_is_missing(run):
    gone = dataclasses.replace(run, facts=dataclasses.replace(run.facts, path="/absent"))
    with pytest.raises(InputError, match="threshold=T to do without"):
        operating_point_of(gone, "youden")
    with pytest.raises(InputError, match="expected youden"):
        operating_point_of(run, "best")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_several_labels_an_image(trained, tmp_path, kind):
    facts = dataclasses.replace(trained.facts, labels=("left", "odd", "opacity"), multi_label=True, positive=None)
    files = [ImageFile("a", str(save(tmp_path / "a.png", picture(40, 40)))), ImageFile("b", "/absent")]
    point = OperatingPoint("threshold=0.5", {"left": 1.0, "odd": 0.0, "opacity": 0.0})
    loader, out = FileLoader(trained.config, facts), io.StringIO()
    found = predict_files(build_classifier(trained.config, facts), loader, files, point)
    assert write_predictions(found, facts, out, kind) == 1
    if kind == "csv":
        assert rows(out.getvalue())[0]["predicted"] == "odd|opacity"
    else:
        first, second = map(json.loads, out.getvalue().splitlines())
        assert first["predicted"] == ["odd", "opacity"] and first["probabilities"].keys() == set(facts.labels)
        assert second["predicted"] is second["probabilities"] is None and "cannot be read" in second["error"]

"""`cxr inspect`: tables, whole records, the contact sheet, and what it says of what is not there."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from cxr.console import run_command
from cxr.errors import CorruptError, DatasetError
from tfrecords.images import codec
from tfrecords.inspect import TILE, contact_sheet, describe_record, label_names, main, read_split

CAPTION = 34


def run(capsys, *arguments: object) -> str:
    assert run_command(main, list(map(str, arguments))) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def fails(capsys, *arguments: object) -> str:
    assert run_command(main, list(map(str, arguments))) in (1, 2)
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_records_are_read_in_order_over_all_shards(dataset):
    for rung, splits in dataset.expected.items():
        for split, expected in splits.items():
            read = list(read_split(dataset.root, dataset.manifest, rung, split))
            assert read == [record for record, _ in expected]


def test_tables_count_images_shards_and_sizes(dataset, capsys):
    out = run(capsys, dataset.root)
    lines = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert lines[0] == [f"{dataset.root}: data set 'chest_xray', labels by binary"]
    assert ["split", "images", "patients", "NORMAL", "PNEUMONIA", "Ödem"] in lines
    assert ["train", "5", "3", "2 (40.0%)", "2 (40.0%)", "1 (20.0%)"] in lines
    assert ["val", "2", "2", "1 (50.0%)", "0 (0.0%)", "1 (50.0%)"] in lines
    full = next(line for line in lines if line[0] == "full")
    small = next(line for line in lines if line[0] == "24")
    assert full[1:4] == ["native", "png", "3"]
    assert small[1:4] == ["short side 24", "png", "3"]
    assert "40 to 52 pixels wide, 30 to 60 high, mean 46 x 45, 0.00 megapixels an image" in out
    mean, std = (f"{dataset.manifest.pixels[name]:.3f}" for name in ("mean", "std"))
    assert f"8 bit, grey; pixels of train: mean {mean}, standard deviation {std} of full scale" in out
    assert "WARNING SHORTCUT: the label can be read off the encoding" in out


@pytest.mark.parametrize(
    ("kind", "expected"),
    [({"channels": (3,)}, "8 bit, colour"), ({"channels": (1, 3), "bit_depth": 16}, "16 bit, grey and colour")],
)
def test_tables_name_colour_and_depth(make, tmp_path, capsys, kind, expected):
    assert expected in run(capsys, make(tmp_path / "set", **kind).root)


@pytest.mark.parametrize("show", [0, 1, 4, 99])
@pytest.mark.parametrize(("split", "rung"), [("train", "full"), ("val", "24")])
def test_records_are_shown_whole(dataset, capsys, split, rung, show):
    out = run(capsys, dataset.root, "--split", split, "--rung", rung, "--show", show)
    expected = dataset.expected[rung][split][:show]
    assert re.findall(r"^record (\d+) of (\S+)$", out, re.M) == [
        (str(i), f"{rung}/{split}") for i in range(len(expected))
    ]
    for record, _ in expected:
        assert describe_record(dataset.manifest, record) in out


def test_a_shown_record_states_every_field_and_its_pixels(make, tmp_path):
    made = make(tmp_path / "set", encoding="raw", bit_depth=16, multi_label=True)
    record, pixels = made.expected["full"]["train"][2]
    text = describe_record(made.manifest, record)
    lines = {line.split()[0]: line.partition(" ")[2].strip() for line in text.splitlines()}
    assert lines["label"] == "(0, 1) (NORMAL|PNEUMONIA)"
    assert lines["image"].endswith(" of raw")
    shape = ", ".join(map(str, pixels.shape))
    assert lines["decoded"] == f"uint16 [{shape}], 0 to 65535, mean {pixels.mean():.1f}"
    for name in ("height", "width", "channels", "bit_depth", "cause", "patient", "path", "pixel_hash"):
        assert lines[name] == str(getattr(record, name))


def test_labels_are_named(dataset):
    record = dataset.records()[0]
    names = [label_names(dataset.manifest, dataclasses.replace(record, label=label)) for label in (1, (), (0, 2))]
    assert names == ["PNEUMONIA", "(none)", "NORMAL|Ödem"]
    for label in (3, -1, (0, 7)):
        with pytest.raises(DatasetError, match=rf"label .* of {record.path}; the data set has 3 labels"):
            label_names(dataset.manifest, dataclasses.replace(record, label=label))


@pytest.mark.parametrize(
    ("images", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (5, 5, 1), (6, 6, 1), (7, 6, 2), (12, 6, 2), (99, 6, 3)]
)
def test_the_contact_sheet_has_the_size_of_its_images(make, tmp_path, capsys, images, columns, rows):
    made = make(tmp_path / "set", shards={"train": (4, 9)}, sizes=())
    target = tmp_path / "sheet.png"
    out = run(capsys, made.root, "--save-grid", target, "--grid-images", images)
    assert f"contact sheet of train: {target}" in out
    with Image.open(target) as sheet:
        assert (sheet.format, sheet.mode) == ("PNG", "RGB")
        assert sheet.size == (columns * TILE, rows * (TILE + CAPTION))


@pytest.mark.parametrize(
    "kind",
    [
        {"channels": (1, 3), "encoding": "source"},
        {"bit_depth": 16},
        {"bit_depth": 16, "channels": (3,), "encoding": "raw", "multi_label": True},
    ],
)
def test_the_contact_sheet_shows_the_images(make, tmp_path, kind):
    made = make(tmp_path / "set", sizes=(), **kind)
    sheet = np.asarray(contact_sheet(made.root, made.manifest, "val", 2))
    assert all(caption.any() for caption in np.split(sheet[TILE:], 2, axis=1))
    shown = []
    for tile in (sheet[:TILE, :TILE], sheet[:TILE, TILE : 2 * TILE]):
        rows, columns = np.nonzero(tile.max(axis=2) > 0)
        shown.append(tile[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    for record, pixels in made.expected["full"]["val"]:
        expected = np.rint(pixels / 257).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
        expected = np.broadcast_to(expected, (*expected.shape[:2], 3))
        assert any(tile.shape == expected.shape and np.array_equal(tile, expected) for tile in shown), record.path


def test_the_contact_sheet_takes_as_many_of_each_label(make, tmp_path):
    made = make(tmp_path / "set", shards={"train": (9,)}, sizes=())
    records = made.records()
    made.rewrite([*(dataclasses.replace(record, label=0) for record in records[:7]), *records[7:]])  # 0 x 7, 1, 2
    sheet = np.asarray(contact_sheet(made.root, made.manifest, "train", 3))
    for column, number in enumerate([0, 7, 8]):
        tile = sheet[:TILE, column * TILE : (column + 1) * TILE]
        pixels = codec.decode(records[number])
        assert np.isclose(tile[..., 0].sum(), pixels.sum()), f"column {column} does not show image {number}"


@pytest.mark.parametrize("looked_at", [79, 80])
def test_the_contact_sheet_does_not_look_through_all_for_a_rare_label(make, tmp_path, looked_at):
    """Of the first shard's images, all of one label, 80 suffice for two; the second shard is not there."""
    made = make(tmp_path / "set", shards={"train": (1, 1)}, sizes=())
    record = dataclasses.replace(made.records()[0], label=0)
    made.rewrite([record] * looked_at)
    made.shard("train", 1).unlink()
    if looked_at < 80:
        with pytest.raises(DatasetError, match="00001-of-00002"):
            contact_sheet(made.root, made.manifest, "train", 2)
    else:
        assert contact_sheet(made.root, made.manifest, "train", 2).size == (2 * TILE, TILE + CAPTION)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1), (1, 3000)])
def test_the_contact_sheet_shows_images_one_pixel_wide(dataset, shape):
    pixels = np.full((*shape, 1), 200, np.uint8)
    thin = dataclasses.replace(
        dataset.records("val")[0], image=codec.encode_png(pixels), height=shape[0], width=shape[1]
    )
    dataset.rewrite([thin], "val")
    sheet = np.asarray(contact_sheet(dataset.root, dataset.manifest, "val", 4))
    assert sheet.shape == (TILE + CAPTION, TILE, 3)
    assert np.sum(sheet[:TILE] == 200) == 3 * min(max(shape), TILE - 4)


def test_the_contact_sheet_reads_the_smallest_rung_that_is_large_enough(make, picture, tmp_path):
    made = make(tmp_path / "set", sizes=(24, 300, 256), shards={"train": (2,)})
    made.shard("train", 0, "300").unlink()
    made.shard("train", 0, "full").unlink()
    made.shard("train", 0, "24").unlink()
    assert contact_sheet(made.root, made.manifest, "train", 2).size == (2 * TILE, TILE + CAPTION)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--split", "trian"],
            "--split trian: expected one of train, val, which the data set has; did you mean train?",
        ),
        (["--rung", "512"], "--rung 512: expected one of full, 24, which the data set has"),
        (["--show", "-1"], "--show -1: expected a whole number of at least 0"),
        (["--grid-images", "0"], "--grid-images 0: expected a whole number of at least 1"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(dataset, capsys, options, message):
    assert fails(capsys, dataset.root, *options) == f"error: {message}\n"


@pytest.mark.parametrize("name", ["absent/sheet.png", "sheet.unknown", "sheet"])
def test_a_contact_sheet_that_cannot_be_written_is_an_error(dataset, capsys, name):
    target = dataset.root.parent / name
    assert f"cannot write the contact sheet {target}: " in fails(capsys, dataset.root, "--save-grid", target)


@pytest.mark.parametrize("content", ["{", "[]", '{"other": 1}', "null"])
def test_a_damaged_audit_is_an_error(dataset, capsys, content):
    (dataset.root / "audit.json").write_text(content)
    assert f"error: {dataset.root / 'audit.json'} " in fails(capsys, dataset.root)
    (dataset.root / "audit.json").write_text(json.dumps({"warnings": []}))
    assert "WARNING" not in run(capsys, dataset.root)


def test_a_damaged_shard_is_an_error_that_names_record_and_offset(dataset, capsys):
    path = dataset.shard()
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(bytes(content))
    assert fails(capsys, dataset.root).startswith(f"error: {path}: record 0 at byte 0: the data (")
    with pytest.raises(CorruptError):
        contact_sheet(dataset.root, dataset.manifest, "train", 1)


def test_what_is_not_known_and_the_groups_are_shown(make, tmp_path):
    made = make(tmp_path / "set", multi_label=True, groups=("view", "sex"))
    text = describe_record(made.manifest, made.records()[1])
    assert re.search(r"^not known +PNEUMONIA$", text, re.MULTILINE)
    assert re.search(r"^view +AP$", text, re.MULTILINE) and re.search(r"^sex +M$", text, re.MULTILINE)

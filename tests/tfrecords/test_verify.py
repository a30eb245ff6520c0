"""`cxr verify` on data sets that are damaged for real: every fault is found and named."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from cxr.console import run_command
from cxr.errors import DatasetError
from tfrecords.format.framing import RecordWriter, read_records
from tfrecords.format.manifest import MANIFEST_NAME, Rung, Shard, read_manifest
from tfrecords.format.shard_index import IndexWriter
from tfrecords.format.shards import index_path
from tfrecords.images import codec
from tfrecords.verify import main, verify


def offsets(path: Path) -> list[int]:
    """Where each record's frame begins, and the end of the file."""
    return [record.offset for record in read_records(path)] + [path.stat().st_size]


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


def only(faults: list[str], *patterns: str) -> None:
    """Each pattern fits one fault, in order, from its start, and there are no others."""
    assert len(faults) == len(patterns), "\n".join(faults)
    for fault, pattern in zip(faults, patterns, strict=True):
        assert re.match(pattern, fault), f"{fault!r} does not fit {pattern!r}"


def altered(made, index: int, **change) -> list:
    """The records of train's first shard, one of them changed."""
    records = made.records()
    records[index] = dataclasses.replace(records[index], **change)
    return records


def change_pixels(record):
    """The record with another pixel at the top left, and everything else as it was."""
    pixels = codec.decode(record).copy()
    pixels[0, 0, 0] ^= 1
    return dataclasses.replace(record, image=codec.encode(pixels, record.encoding))


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"encoding": "source", "channels": (1, 3)},
        {"encoding": "raw", "bit_depth": 16, "multi_label": True},
        {"multi_label": True, "groups": ("view", "age", "sex", "site")},
        {"groups": ("sex",)},
        {"encoding": "source", "bit_depth": 16, "channels": (3,), "sizes": ()},
        {"shards": {"train": (2, 0, 1), "test": (1,)}, "sizes": (24, 16, 1000)},
    ],
)
def test_a_clean_data_set_has_no_fault(make, tmp_path, kind, deep):
    assert verify(make(tmp_path / "set", **kind).root, deep) == []


@pytest.mark.parametrize(("record", "rung"), [(0, "full"), (1, "24"), (2, "full")])
@pytest.mark.parametrize(
    ("place", "fault", "others"),
    [
        (0, "the length does not match its CRC", r"\d records; the manifest says 3"),
        (8, "the length does not match its CRC", r"\d records; the manifest says 3"),
        (40, r"the data \(\d+ bytes\) does not match its CRC", None),
        (-1, r"the data \(\d+ bytes\) does not match its CRC", None),
    ],
    ids=["length", "CRC of the length", "data", "CRC of the data"],
)
def test_a_flipped_bit_is_named_with_file_record_and_offset(dataset, rung, record, place, fault, others):
    path = dataset.shard("train", 0, rung)
    places = offsets(path)
    flip(path, (places[record] if place >= 0 else places[record + 1]) + place)
    faults = verify(dataset.root)
    count = [rf"{path}: {others}"] if others and record < 2 else []
    only(faults, rf"{path}: record {record} at byte {places[record]}: {fault}$", *count, rf"{path}: the checksum is ")


@pytest.mark.parametrize("cut", ["inside a header", "inside the data", "between records", "to nothing"])
def test_a_truncated_shard(dataset, cut):
    path = dataset.shard()
    places = offsets(path)
    size = {
        "inside a header": places[2] + 5,
        "inside the data": places[3] - 9,
        "between records": places[2],
        "to nothing": 0,
    }[cut]
    path.write_bytes(path.read_bytes()[:size])
    truncated = rf"{path}: record 2 at byte {places[2]}: (truncated: the record needs|the file ends after 5 of 12)"
    records = rf"{path}: {2 if size else 0} records; the manifest says 3"
    first = [truncated] if cut.startswith("inside") else [records]
    only(verify(dataset.root), *first, rf"{path}: {size} bytes; the manifest says {places[3]}")


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 40])
def test_appended_bytes(dataset, tail):
    path = dataset.shard("val")
    size = path.stat().st_size
    with open(path, "ab") as file:
        file.write(tail)
    only(
        verify(dataset.root),
        rf"{path}: record 2 at byte {size}: ",
        rf"{path}: 3 records; the manifest says 2",
        rf"{path}: {size + len(tail)} bytes; the manifest says {size}",
    )


def test_a_missing_shard(dataset):
    dataset.shard("train", 1, "24").unlink()
    only(verify(dataset.root), rf"{dataset.shard('train', 1, '24')}: the shard is missing$")


def test_a_missing_rung(dataset):
    shutil.rmtree(dataset.root / "24")
    faults = verify(dataset.root)
    for part in ("the shard is missing", "cannot read the index", "TFDS metadata is missing"):
        assert sum(part in fault for fault in faults) == 3
    assert len(faults) == 9


def test_an_extra_shard(dataset):
    extra = dataset.root / "24" / "chest_xray-train.tfrecord-00000-of-00003"
    shutil.copy(dataset.shard("train", 0, "24"), extra)
    shutil.copy(index_path(dataset.shard("train", 0, "24")), index_path(extra))
    (dataset.root / "24" / "notes.txt").write_text("not a shard, nobody's business")
    only(
        verify(dataset.root),
        rf"{index_path(extra)}: an index that the manifest does not know; remove it$",
        rf"{extra}: a shard that the manifest does not know; remove it$",
    )


def test_a_missing_index(dataset):
    path = index_path(dataset.shard("train", 1, "24"))
    path.unlink()
    only(verify(dataset.root), rf"cannot read the index {path}: No such file or directory; copy it again .*overwrite`$")


def test_a_damaged_index(dataset):
    path = index_path(dataset.shard())
    flip(path, path.stat().st_size - 9)  # in the texts, which are read last
    only(
        verify(dataset.root), rf"{path}: the index of the shard is damaged: byte \d+: the data.*; copy it again from a"
    )


FORGED_INDEXES = {
    "label": ({"label": 2}, "label of record 1 is 2; the shard says 1"),
    "shape": ({"height": 7}, r"shape of record 1 is \[7, 50, 1\]; the shard says \[35, 50, 1\]"),
    "path": ({"path": "x"}, "path of record 1 is b'x'; the shard says b'train/"),
    "patient": ({"patient": "x"}, "patient of record 1 is b'x'; the shard says b'person0'"),
    "cause": ({"cause": "x"}, "cause of record 1 is b'x'; the shard says b'bacteria'"),
    "pixel hash": ({"pixel_hash": "ab"}, "pixel_hash of record 1 is b'ab'; the shard says b'"),
}


@pytest.mark.parametrize(("change", "fault"), FORGED_INDEXES.values(), ids=FORGED_INDEXES)
@pytest.mark.parametrize("follow", [False, True], ids=["index alone", "manifest follows"])
def test_every_column_of_an_index_is_compared_with_the_records(dataset, change, fault, follow):
    """An index that is whole in itself and belongs to the shard, but says something else of a record."""
    path, shard = index_path(dataset.shard()), dataset.manifest.rungs["full"].shards["train"][0]
    index, schema = IndexWriter(None), dataset.manifest.schema()
    for number, framed in enumerate(read_records(dataset.shard())):
        record = schema.parse(framed.data)
        span = schema.image_span(record, len(framed.data))
        index.add(dataclasses.replace(record, **change) if number == 1 else record, span, framed.place)
    with open(path, "wb") as file:
        written = index.write(file, shard.blake3)
    entry = {"index_bytes": written.bytes, "index_blake3": written.checksum if follow else shard.index_blake3}
    dataset.save(with_shard(dataset, **entry))
    expected = fault if follow else r"the checksum is \w{16}\.\.\.; the manifest says \w{16}\.\.\."
    only(verify(dataset.root), rf"{path}: {expected}.*; copy it again ")


def test_swapped_shards_that_the_manifest_follows(dataset):
    """Every checksum is right; only the other rung shows it."""
    records = [dataset.records("train", 0)[:2], dataset.records("train", 1)]
    dataset.rewrite(records[1], "train", 0)
    made = dataclasses.replace(dataset, manifest=read_manifest(dataset.root))
    made.rewrite(records[0] + dataset.records("train", 0)[2:], "train", 1)
    faults = verify(dataset.root)
    assert [fault for fault in faults if "the manifest says" in fault] == []
    only(
        faults,
        rf"{dataset.root}/24: shard 0 of 'train' holds other images, labels or patients, or another order, than full",
        rf"{dataset.root}/24: shard 1 of 'train' holds other images",
    )


def test_a_doubled_record(dataset):
    records = dataset.records()
    dataset.rewrite([*records, records[1]])
    faults = verify(dataset.root)
    only(
        faults,
        rf"{dataset.root}: split 'train' has 6 images of 3 patients; the manifest says 5 of 3",
        rf"{dataset.root}: split 'train' has labels ",
        rf"{dataset.root}: {records[1].path} appears 2 times in the data set \(train, train\)",
        rf"{dataset.root}/24: shard 0 of 'train' holds other images",
        rf"{dataset.root}: the sizes of the images",
        rf"{dataset.root}: the fingerprint of ",
    )


def test_a_record_of_train_that_stands_in_val_too(dataset):
    stray = dataset.records("train")[0]
    dataset.rewrite([*dataset.records("val"), stray], "val")
    faults = verify(dataset.root)
    assert f"{dataset.root}: {stray.path} appears 2 times in the data set (train, val)" in faults


@pytest.mark.parametrize("rung", ["full", "24"])
def test_a_changed_label_with_the_right_crc_and_checksum(dataset, rung):
    records = dataset.records("train", 0, rung)
    records[1] = dataclasses.replace(records[1], label=2)
    dataset.rewrite(records, rung=rung)
    labels = [rf"{dataset.root}: split 'train' has labels .*'PNEUMONIA': 1, 'Ödem': 2.*; the manifest says "]
    fingerprint = [rf"{dataset.root}: the fingerprint of "]
    only(
        verify(dataset.root),
        *(labels if rung == "full" else []),
        rf"{dataset.root}/24: shard 0 of 'train' holds other",
        *(fingerprint if rung == "full" else []),
    )


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"label": 3}, r"label 3; expected 0 to 2"),
        ({"label": -1}, r"label -1; expected 0 to 2"),
        ({"encoding": "jpeg"}, r"encoding jpeg; expected png"),
        ({"bit_depth": 16}, r"16 bits; expected 8"),
        ({"channels": 3}, r"3 channels; expected 1"),
    ],
)
def test_a_record_that_breaks_what_the_manifest_says_of_all(dataset, change, fault):
    records = altered(dataset, 1, **change)
    dataset.rewrite(records)
    place = offsets(dataset.shard())[1]
    only(verify(dataset.root), rf"{dataset.shard()}: record 1 at byte {place}: {records[1].path}: {fault}$")


def test_a_record_that_is_no_example(dataset):
    path = dataset.shard("val")
    payloads = [record.data for record in read_records(path)]
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        writer.write(payloads[0])
        writer.write(b"\xff\xff no example")
    faults = verify(dataset.root)
    assert faults[0].startswith(f"{path}: record 1 at byte {len(payloads[0]) + 16}: not a serialized tf.train.Example")


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_changed_pixels_are_found_by_a_deep_check_alone(make, tmp_path, encoding):
    made = make(tmp_path / "set", encoding=encoding)
    records = made.records()
    records[2] = change_pixels(records[2])
    made.rewrite(records)
    place = offsets(made.shard())[2]
    assert verify(made.root) == []
    only(
        verify(made.root, deep=True),
        rf"{made.shard()}: record 2 at byte {place}: {records[2].path}: the pixels are not those that were stored",
    )


def forge(record):
    """The record with all its pixels black, and the hash that goes with them."""
    pixels = np.zeros((record.height, record.width, record.channels), np.uint8)
    return dataclasses.replace(
        record, image=codec.encode(pixels, record.encoding), pixel_hash=codec.hash_pixels(pixels)
    )


def test_pixels_whose_hash_was_changed_with_them_are_found_by_fingerprint_and_statistics(dataset):
    records = dataset.records()
    records[2] = forge(records[2])
    dataset.rewrite(records)
    fingerprint = rf"{dataset.root}: the fingerprint of paths, .* is \w{{16}}\.\.\.; the manifest says \w{{16}}\.\.\.$"
    only(verify(dataset.root), fingerprint)
    only(
        verify(dataset.root, deep=True),
        fingerprint,
        rf"{dataset.root}: the pixels of train have the mean ",
        rf"{dataset.root}: the pixels of train have the std ",
    )


def test_statistics_are_those_of_train_alone(dataset):
    records = dataset.records("val")
    records[0] = forge(records[0])
    dataset.rewrite(records, "val")
    only(verify(dataset.root, deep=True), rf"{dataset.root}: the fingerprint of ")


@pytest.mark.parametrize("key", ["patient", "path"])
def test_the_fingerprint_holds_all_rungs_together(dataset, key):
    """The same change in every rung, with counts that stay the same."""
    made = dataset
    for rung in made.manifest.rungs:
        records = made.records("val", 0, rung)
        records[0] = dataclasses.replace(records[0], **{key: "another"})
        made.rewrite(records, "val", rung=rung)
        made = dataclasses.replace(made, manifest=read_manifest(made.root))
    only(verify(made.root), rf"{made.root}: the fingerprint of ")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda record: {"image": record.image[:-30]}, "damaged PNG"),
        (lambda record: {"height": record.height + 1}, r"the png image decodes to uint8 .*the record says"),
        (lambda record: {"image": b""}, "not a PNG"),
        (lambda record: {"height": 0}, r"the record says \(0, "),
    ],
)
def test_an_image_that_does_not_decode_is_found_by_a_deep_check(dataset, change, fault):
    record = dataset.records()[0]
    dataset.rewrite(altered(dataset, 0, **change(record)))
    faults = verify(dataset.root, deep=True)
    assert re.match(rf"{dataset.shard()}: record 0 at byte 0: {record.path}: {fault}", faults[0]), faults


def test_a_rung_of_the_wrong_size(dataset):
    whole = dataset.records()
    dataset.rewrite(whole, rung="24")
    only(
        verify(dataset.root, deep=True),
        rf"{dataset.root}/24: shard 0 of 'train' holds {whole[0].path} at 30 x 52 pixels; the rung's short side is 24",
    )


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "label.labels.txt"])
@pytest.mark.parametrize("damage", ["remove", "cut", "alter"])
def test_damaged_tfds_metadata(dataset, name, damage):
    path = dataset.root / "24" / name
    content = path.read_text()
    if damage == "remove":
        path.unlink()
    else:
        path.write_text(
            content[: len(content) // 2] if damage == "cut" else content.replace("NORMAL", "X").replace("1", "2")
        )
    fault = "is missing: No such file" if damage == "remove" else "that differs from the manifest"
    only(verify(dataset.root), rf"{path}: TFDS metadata {fault}")


@pytest.mark.parametrize("name", ["audit.json", "rejects.jsonl"])
@pytest.mark.parametrize(("content", "fault"), [(None, "missing$"), (b'{"a": ', "damaged: "), (b"\xff", "damaged: ")])
def test_missing_and_damaged_reports(dataset, name, content, fault):
    path = dataset.root / name
    path.unlink() if content is None else path.write_bytes(content)
    only(verify(dataset.root), rf"{path}: {fault}")


@pytest.mark.parametrize("name", ["audit.json", "audit.html", "rejects.jsonl"])
def test_a_report_that_was_edited(dataset, name):
    path = dataset.root / name
    path.write_bytes(path.read_bytes().replace(b"e", b"a"))
    only(verify(dataset.root), rf"{path}: the checksum is \w{{16}}\.\.\.; the manifest says \w{{16}}\.\.\.$")


def test_a_report_that_the_manifest_does_not_name(dataset):
    dataset.save(dataclasses.replace(dataset.manifest, sidecars={}))
    only(
        verify(dataset.root),
        rf"{dataset.root}/audit.json: the checksum is .*; the manifest says nothing$",
        rf"{dataset.root}/audit.html: the checksum is .*; the manifest says nothing$",
        rf"{dataset.root}/rejects.jsonl: the checksum is .*; the manifest says nothing$",
    )


def test_stray_rungs(dataset):
    for name in ("512", "1024", "notes", "24x", "\u0662"):
        (dataset.root / name).mkdir()
    (dataset.root / "99").write_text("a file, no folder")
    only(
        verify(dataset.root),
        rf"{dataset.root}/1024: a rung that the manifest does not know$",
        rf"{dataset.root}/512: a rung that the manifest does not know$",
    )


def with_pixels(made, **change):
    """The manifest with other statistics: `change` is added to them."""
    pixels = {name: value + change.get(name, 0) for name, value in made.manifest.pixels.items()}
    return dataclasses.replace(made.manifest, pixels=pixels)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_wrong_statistics_are_found_by_a_deep_check(dataset, name):
    dataset.save(with_pixels(dataset, **{name: 9e-7}))
    assert verify(dataset.root, deep=True) == []
    for off in (1.1e-6, -1.1e-6, float("nan")):
        dataset.save(with_pixels(dataset, **{name: off}))
        assert verify(dataset.root) == []
        only(
            verify(dataset.root, deep=True),
            rf"{dataset.root}: the pixels of train have the {name} 0\.\d+; the manifest",
        )
    pixels = {key: value for key, value in dataset.manifest.pixels.items() if key != name}
    dataset.save(dataclasses.replace(dataset.manifest, pixels=pixels))
    only(verify(dataset.root, deep=True), rf"{dataset.root}: .* the {name} 0\.\d+; the manifest says None")


@pytest.mark.parametrize("kind", [1, 3])
def test_a_manifest_that_says_mixed_channels_of_one_kind(make, tmp_path, kind):
    made = make(tmp_path / "set", channels=(kind,))
    made.save(dataclasses.replace(made.manifest, channels=0))
    only(verify(made.root), rf"{made.root}: the images have {kind} channels; the manifest says 0$")


def test_a_manifest_that_says_one_kind_of_channels_of_mixed_ones(make, tmp_path):
    made = make(tmp_path / "set", channels=(1, 3), sizes=())
    made.save(dataclasses.replace(made.manifest, channels=3))
    faults = verify(made.root)
    assert len(faults) == 4
    assert all("1 channels; expected 3" in fault for fault in faults)


def with_source(made, **change):
    return dataclasses.replace(made.manifest, source={**made.manifest.source, **change})


def with_shard(made, **change):
    """The manifest with another entry for the first shard of full."""
    full = made.manifest.rungs["full"]
    first, *rest = full.shards["train"]
    shards = {**full.shards, "train": (dataclasses.replace(first, **change), *rest)}
    return dataclasses.replace(made.manifest, rungs={**made.manifest.rungs, "full": Rung(None, full.encoding, shards)})


def with_split(made, **change):
    train = dataclasses.replace(made.manifest.splits["train"], **change)
    return dataclasses.replace(made.manifest, splits={**made.manifest.splits, "train": train})


def with_sizes(made, **change):
    return dataclasses.replace(made.manifest, sizes={**made.manifest.sizes, **change})


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda made: with_shard(made, records=4), r"\S+00000-of-00002: 3 records; the manifest says 4"),
        (lambda made: with_shard(made, bytes=4), r"\S+00000-of-00002: \d+ bytes; the manifest says 4"),
        (
            lambda made: with_shard(made, blake3="0" * 64),
            r"\S+00000-of-00002: the checksum is \w{16}\.\.\.; the manifest",
        ),
        (
            lambda made: with_split(made, images=4),
            r"\S+: split 'train' has 5 images of 3 patients; the manifest says 4 of 3",
        ),
        (lambda made: with_split(made, patients=2), r"\S+: split 'train' has 5 images of 3 patients; .* says 5 of 2"),
        (lambda made: with_split(made, labels={"NORMAL": 5}), r"\S+: split 'train' has labels .*says {'NORMAL': 5}"),
        (
            lambda made: with_source(made, pixels="0" * 64),
            r"\S+: the fingerprint of .*; the manifest says 0000000000000",
        ),
        (lambda made: with_source(made, pixels=None), r"\S+: the fingerprint of .*; the manifest says None"),
        (lambda made: with_sizes(made, pixels=1), r"\S+: the sizes of the images are not those"),
        (lambda made: with_sizes(made, counts=[[0, 0, 7]], step=32), r"\S+: the sizes of the images are not those"),
    ],
)
def test_a_wrong_manifest_entry(dataset, edit, fault):
    dataset.save(edit(dataset))
    faults = verify(dataset.root)
    only(faults[:1], fault)
    assert all("it is the index of another shard" in also for also in faults[1:])


def test_all_faults_of_a_data_set_are_named_at_once_and_alike_by_any_number_of_workers(dataset):
    flip(dataset.shard("train", 0), 40)
    flip(dataset.shard("train", 1, "24"), 0)
    dataset.shard("val").unlink()
    (dataset.root / "audit.json").unlink()
    alone = verify(dataset.root, deep=True, workers=1)
    assert verify(dataset.root, deep=True, workers=3) == alone
    for part in (
        "record 0 at byte 0: the data",
        "record 0 at byte 0: the length",
        "the shard is missing",
        "audit.json",
    ):
        assert sum(part in fault for fault in alone) == 1


def test_the_command_on_a_clean_set(dataset, capsys):
    assert run_command(main, [str(dataset.root), "--quiet"]) == 0
    size = sum(path.stat().st_size for path in dataset.root.glob("*/*.tfrecord-*"))
    expected = f"{dataset.root}: no fault in 6 shards, 14 records, {size / 1024:.1f} KB\n"
    assert capsys.readouterr() == (expected, "")
    assert run_command(main, [str(dataset.root), "--deep", "--quiet"]) == 0
    assert capsys.readouterr().out == expected.replace("KB", "KB, every pixel")


def test_the_command_shows_its_progress(dataset, capsys):
    assert run_command(main, [str(dataset.root)]) == 0
    assert "verifying" in capsys.readouterr().err


def test_the_command_on_a_damaged_set(dataset, capsys):
    flip(dataset.shard(), 40)
    assert run_command(main, [str(dataset.root), "--quiet"]) == 1
    out, err = capsys.readouterr()
    first, second, last = out.splitlines()
    assert first.startswith(f"FAULT {dataset.shard()}: record 0 at byte 0: the data (")
    assert second.startswith(f"FAULT {dataset.shard()}: the checksum is ")
    assert last.startswith(f"{dataset.root}: 2 faults in 6 shards, 14 records, ")
    assert err == ""


def test_without_a_manifest_there_is_no_data_set(dataset, capsys):
    (dataset.root / MANIFEST_NAME).unlink()
    with pytest.raises(DatasetError):
        verify(dataset.root)
    assert run_command(main, [str(dataset.root)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {dataset.root} is not a data set: it has no manifest.json")


def test_a_forged_manifest_entry_is_what_the_forgery_says(dataset):
    """The helper itself: `rewrite` leaves count, size and checksum right, or the tests above would show nothing."""
    dataset.rewrite(dataset.records())
    assert verify(dataset.root, deep=True) == []
    content = json.loads((dataset.root / MANIFEST_NAME).read_text())["rungs"]["full"]["shards"]["train"][0]
    assert Shard(**content) == dataset.manifest.rungs["full"].shards["train"][0]

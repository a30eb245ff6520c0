"""Damage of every kind, through the index and through a stream read to its end: an error that names it, or a warning
that counts it and every other record exactly once."""

from __future__ import annotations

import dataclasses
import pickle
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from cxr.errors import CorruptError, DatasetError, InputError
from tfrecords.dataset import open_dataset
from tfrecords.format.framing import RecordWriter, read_records
from tfrecords.format.manifest import read_manifest
from tfrecords.format.shards import index_path
from tfrecords.streaming.split_index import build_index
from tfrecords.streaming.stream import plain_errors


def stream(made, **options) -> tf.data.Dataset:
    """Stored order, two images a batch, nothing cached."""
    chosen = {"image_size": 24, "batch_size": 2, "metadata": True, "rung": "full", "cache": "none", "threads": 2}
    return open_dataset(made.root).stream("train", **{**chosen, **options})


def paths_of(batches: Iterable[tuple]) -> list[str]:
    """Reads to the end."""
    return [path.decode() for batch in batches for path in batch[-1]["path"].numpy()]


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


def frames(path: Path) -> list[int]:
    """Where each record's frame begins, and the end of the file."""
    return [record.offset for record in read_records(path)] + [path.stat().st_size]


def flipping(record: int, place: int) -> Callable:
    """Damage `place` bytes behind the begin of a record, or before its end."""

    def damage(made) -> None:
        places = frames(made.shard())
        flip(made.shard(), (places[record] if place >= 0 else places[record + 1]) + place)

    return damage


def cutting(record: int, place: int) -> Callable:
    def damage(made) -> None:
        places = frames(made.shard())
        size = (places[record] if place >= 0 else places[record + 1]) + place
        made.shard().write_bytes(made.shard().read_bytes()[:size])

    return damage


def writing(change: Callable[[list[bytes]], list[bytes]]) -> Callable:
    """Another content with right CRCs, behind the manifest's back."""

    def damage(made) -> None:
        data = [record.data for record in read_records(made.shard())]
        with open(made.shard(), "wb") as file:
            writer = RecordWriter(file)
            for item in change(data):
                writer.write(item)

    return damage


def forging(record: int, **change) -> Callable:
    """One record with another field, the right CRC, and a manifest that fits."""

    def damage(made) -> None:
        records = made.records()
        records[record] = dataclasses.replace(records[record], **change)
        made.rewrite(records)

    return damage


def appending(made) -> None:
    """A whole, readable record of another source."""
    record = dataclasses.replace(made.records()[0], path="stranger.png")
    with open(made.shard(), "ab") as file:
        RecordWriter(file).write(made.manifest.schema().serialize(record))


def adding_a_shard(made) -> None:
    name = made.shard().name.replace("00000-of-00002", "00002-of-00003")
    made.shard().with_name(name).write_bytes(made.shard().read_bytes())


DATA = r"the data \(\d+ bytes\) does not match its CRC"
CUT = r"truncated: the file has \d+ of \d+ bytes"
LONGER = "bytes more than the manifest's 3 records"
INDEX = r"{index}: the index of the shard is damaged: "


def damaging_the_index(change: Callable[[bytes], bytes]) -> Callable:
    def damage(made) -> None:
        path = index_path(made.shard())
        path.write_bytes(change(path.read_bytes()))

    return damage


# name: (damage, record that the error names or None, fault, records lost of train's 0 1 2 | 3 4, found at `stream()`)
DAMAGE = {
    "image": (flipping(1, 400), 1, DATA, [1], False),
    "last byte of the data": (flipping(1, -5), 1, DATA, [1], False),
    "cut inside a header": (cutting(1, 5), 1, CUT, [1, 2], True),
    "cut inside the data": (cutting(2, 300), 2, CUT, [2], True),
    "cut inside a footer": (cutting(2, -2), 2, CUT, [], True),
    "empty": (cutting(0, 0), 0, CUT, [0, 1, 2], True),
    "missing": (lambda made: made.shard().unlink(), None, "cannot read the shard {shard}: No such", [0, 1, 2], True),
    "extra shard": (adding_a_shard, None, r"\S+00002-of-00003 is not one of the 2 shards", [], True),
    "extra record": (appending, 3, rf"\d+ {LONGER}", [], True),
    "a record of another size": (writing(lambda data: [data[0], b"garbage", data[2]]), 2, CUT, [1, 2], True),
    "records in another order": (writing(lambda data: data[::-1]), 0, DATA, [0, 1, 2], False),
    "label out of range": (forging(1, label=3), 1, "label 3; expected 0 to 2", [1], True),
    "index missing": (
        lambda made: index_path(made.shard()).unlink(),
        None,
        "cannot read the index {index}: No such file or directory; copy it again",
        [0, 1, 2],
        True,
    ),
    "index cut": (damaging_the_index(lambda content: content[:-1]), None, rf"{INDEX}it has \d+", [0, 1, 2], True),
    "index numbers": (
        damaging_the_index(lambda content: content.replace(b"\xff", b"\xfe").replace(b"\x01", b"\x02")),
        None,
        rf"{INDEX}byte \d+: the ",
        [0, 1, 2],
        True,
    ),
}


@pytest.fixture(params=DAMAGE)
def damaged(request, dataset):
    """(data set, where and what the fault is as a pattern, record, paths lost, found at `stream()`)."""
    damage, record, fault, lost, early = DAMAGE[request.param]
    begins = frames(dataset.shard())
    damage(dataset)
    fault = fault.replace("{shard}", str(dataset.shard())).replace("{index}", str(index_path(dataset.shard())))
    where = "" if record is None else f"{dataset.shard()}: record {record} at byte {begins[record]}: "
    return dataset, where + fault, record, lost, early


def everything(made) -> list[str]:
    return [record.path for record, _ in made.expected["full"]["train"]]


def test_an_error_names_file_and_record(damaged):
    made, fault, record, _, early = damaged
    kind = DatasetError if record is None else CorruptError
    if early:
        with pytest.raises(kind, match=f"^{fault}") as raised:
            stream(made)
        assert type(raised.value) is kind
        return
    for image_size in (24, None):  # the CRC of the data is left to whoever reads it
        with pytest.raises(CorruptError, match=f"^{fault}"), plain_errors():
            paths_of(stream(made, image_size=image_size))
    with pytest.raises(tf.errors.OpError, match=f"CorruptError: {fault}"):
        paths_of(stream(made))


def test_batches_before_a_damaged_record_come_first(dataset):
    flip(dataset.shard("train", 1), 400)
    found = []
    with pytest.raises(CorruptError, match=r"record 0 at byte 0: .*CRC") as raised, plain_errors():
        for batch in stream(dataset, batch_size=1, threads=1):
            found += paths_of([batch])
    assert found == everything(dataset)[:3]
    assert isinstance(raised.value.__cause__, tf.errors.OpError)


def test_skipping_gives_every_other_record_once_and_says_so(damaged):
    made, fault, record, lost, _ = damaged
    kept = [path for number, path in enumerate(everything(made)) if number not in lost]
    expected = f"{re.escape(str(made.root))}: skipped {len(lost)} of 5 records of split 'train'; first fault: {fault}"
    with pytest.warns(UserWarning, match=f"^{expected}") as caught:
        batches = stream(made, on_corrupt="skip")
    assert len(caught) == 1
    assert paths_of(batches) == kept
    labels = [label for _, batch, _ in batches for label in batch.numpy().tolist()]
    written = [one.label for number, (one, _) in enumerate(made.expected["full"]["train"]) if number not in lost]
    assert labels == written

    index = build_index(made.root, read_manifest(made.root), "full", "train", "skip")
    assert (index.lost, len(index)) == (len(lost), len(kept))
    assert re.match(fault, str(index.faults[0]))
    assert isinstance(index.faults[0], CorruptError) == (record is not None)
    rows = list(zip(index.shard.tolist(), index.number.tolist(), strict=True))
    assert rows == [one for number, one in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]) if number not in lost]


@pytest.mark.parametrize("options", [{"image_size": None}, {"training": True, "epochs": 1}, {"batch_size": 1}], ids=str)
def test_skipping_in_any_order_of_batches(dataset, options):
    flip(dataset.shard(), 400)
    with pytest.warns(UserWarning, match="skipped 1 of 5 records"):
        batches = stream(dataset, on_corrupt="skip", **options)
    assert sorted(paths_of(batches)) == sorted(everything(dataset)[1:])


def test_several_faults_are_all_counted_and_the_first_is_named(dataset):
    flip(dataset.shard(), 400)
    flip(dataset.shard(), frames_after_damage(dataset) + 300)
    dataset.shard("train", 1).unlink()
    with pytest.warns(
        UserWarning,
        match="skipped 4 of 5 records of split 'train'; first fault: cannot read the shard .*00001-of-00002",
    ):
        batches = stream(dataset, on_corrupt="skip")
    assert paths_of(batches) == everything(dataset)[1:2]


def frames_after_damage(made) -> int:
    """Where the last record of the first shard begins, though the first record is damaged."""
    return list(read_records(made.shard(), []))[-1].offset


def test_a_clean_set_warns_of_nothing(dataset):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for on_corrupt in ("error", "skip"):
            assert paths_of(stream(dataset, on_corrupt=on_corrupt)) == everything(dataset)


def test_damage_of_one_split_or_rung_is_not_that_of_another(dataset):
    for path in (dataset.shard("val"), dataset.shard("train", 0, "24")):
        path.write_bytes(b"")
    assert paths_of(stream(dataset)) == everything(dataset)
    with pytest.raises(CorruptError, match=CUT):
        stream(dataset, rung="24")


def test_a_split_without_a_readable_record(dataset):
    for index in (0, 1):
        dataset.shard("train", index).unlink()
    with pytest.warns(UserWarning, match="skipped 5 of 5"), pytest.raises(InputError, match="no readable example"):
        stream(dataset, on_corrupt="skip")


@pytest.mark.parametrize(
    ("later", "fault"),
    [
        (flipping(1, 400), r"record 1 at byte \d+: the data \(\d+ bytes\) does not match its CRC"),
        (cutting(1, 400), r"record 1 at byte \d+: truncated: 388 of \d+ bytes are left; the file was changed"),
        (lambda made: made.shard().unlink(), "cannot read the shard .*00000-of-00002: No such file"),
    ],
    ids=["image", "cut", "removed"],
)
def test_damage_after_opening_is_an_error(dataset, later, fault):
    batches = stream(dataset, on_corrupt="skip", batch_size=1)
    later(dataset)
    with pytest.raises(DatasetError, match=fault), plain_errors():
        paths_of(batches)


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_metadata_that_goes_bad_after_opening_is_named(dataset, tmp_path, cache):
    """Texts are read from the index when they are asked for first, whether the pixels come from a cache or not."""
    batches = stream(dataset, batch_size=5, cache=cache, cache_dir=str(tmp_path / "cache"))
    path = index_path(dataset.shard())
    path.write_bytes(path.read_bytes().replace("肺1".encode(), "肺7".encode()))
    with pytest.raises(DatasetError, match=f"^{path}: the index of the shard is damaged: byte "), plain_errors():
        paths_of(batches)


def test_an_image_that_does_not_decode_is_never_passed_over(make, tmp_path):
    """With a right CRC, skipping does not find it beforehand; it is an error when it comes, not silence."""
    made = make(tmp_path / "set", encoding="source")
    forging(0, image=made.records()[0].image[:700])(made)
    for on_corrupt in ("error", "skip"):
        with pytest.raises(CorruptError, match=f"^{made.shard()}: record 0 at byte 0: damaged JPEG"), plain_errors():
            paths_of(stream(made, on_corrupt=on_corrupt))


def test_a_size_that_no_image_of_the_set_has_is_named_at_native_size(dataset):
    forging(1, height=8000)(dataset)
    with pytest.raises(DatasetError, match=r"an image of 8000 x 50 pixels is larger than the manifest's") as raised:
        stream(dataset, image_size=None)
    assert "run `cxr verify`" in str(raised.value)
    with pytest.raises(CorruptError, match=r"record 1 at byte \d+: the png image decodes to"), plain_errors():
        paths_of(stream(dataset))


def test_the_error_that_comes_out_of_a_pipeline_is_whole(dataset):
    begin = frames(dataset.shard())[1]
    flip(dataset.shard(), begin + 300)
    with pytest.raises(CorruptError) as raised, plain_errors():
        paths_of(stream(dataset))
    for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):
        assert (error.path, error.record, error.offset) == (str(dataset.shard()), 1, begin)
        assert str(error) == str(raised.value)


def test_other_errors_pass_through_plain_errors():
    with pytest.raises(ZeroDivisionError), plain_errors():
        raise ZeroDivisionError
    with pytest.raises(tf.errors.OutOfRangeError, match="KeyError: 'x'"), plain_errors():
        raise tf.errors.OutOfRangeError(None, None, "KeyError: 'x'")
    with pytest.raises(DatasetError, match=r"^a: b$"), plain_errors():
        raise tf.errors.UnknownError(None, None, "ValueError: x\ncxr.errors.DatasetError: a: b\nmore")


def test_random_damage_is_never_silent(make, tmp_path):
    """Any one flipped bit or cut of a record: an error that names it, and in skip mode a count that adds up."""
    made = make(tmp_path / "set", sizes=(), shards={"train": (3, 2), "val": (1,)})
    whole = made.shard().read_bytes()
    data = [(one.offset + 12, one.offset + 12 + len(one.data)) for one in read_records(made.shard())]
    rng = np.random.default_rng(11)
    for case in range(40):
        place = int(rng.integers(0, len(whole)))
        changed = whole[:place] if case % 4 == 0 else bytearray(whole)
        if case % 4:
            changed[place] ^= 1 << int(rng.integers(0, 8))
        made.shard().write_bytes(bytes(changed))
        index = build_index(made.root, made.manifest, "full", "train", "skip")
        hit = sum(begin <= place < end for begin, end in data) if case % 4 else sum(end > place for _, end in data)
        assert index.lost == 5 - len(index) == hit
        if hit == 0:  # only framing, which the index makes dispensable
            assert paths_of(stream(made)) == everything(made)
            continue
        with pytest.raises(CorruptError, match=f"^{made.shard()}: record "), plain_errors():
            paths_of(stream(made, batch_size=5, metadata=True))

"""Pixels by row: equal to what was written, from many threads, with few files open, and damage after opening."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import gc
import os
import threading

import numpy as np
import pytest

from cxr.errors import CorruptError
from tfrecords.format.framing import read_records
from tfrecords.format.manifest import read_manifest
from tfrecords.streaming import reader as reader_module
from tfrecords.streaming.reader import RecordReader
from tfrecords.streaming.split_index import build_index

KINDS = [
    {},
    {"encoding": "source", "channels": (1, 3)},
    {"encoding": "source", "bit_depth": 16, "channels": (3, 1), "sizes": ()},
    {"encoding": "raw", "bit_depth": 16, "channels": (1, 3)},
    {"encoding": "raw", "bit_depth": 16, "channels": (1, 3), "multi_label": True},
    {"encoding": "raw", "channels": (3,), "sizes": (16,)},
]


def open_reader(made, channels: int, rung: str = "full", split: str = "train") -> RecordReader:
    manifest = read_manifest(made.root)
    return RecordReader(build_index(made.root, manifest, rung, split), manifest, channels)


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """What the reader promises of an image with another number of channels."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.concatenate([pixels] * 3, axis=2)
    red, green, blue = (pixels[..., channel].astype(np.float64) for channel in range(3))
    return np.round(0.299 * red + 0.587 * green + 0.114 * blue)[..., None]  # ITU-R BT.601


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_pixel_of_every_record(make, tmp_path, kind, channels):
    made = make(tmp_path / "set", **kind)
    for rung in made.manifest.rungs:
        for split in made.manifest.splits:
            reader = open_reader(made, channels, rung, split)
            for row, (record, pixels) in enumerate(made.expected[rung][split]):
                image = reader.image(row)
                assert image.dtype == reader.dtype == pixels.dtype
                assert image.shape == (*pixels.shape[:2], channels)
                difference = np.abs(image.astype(np.float64) - with_channels(pixels, channels))
                # OpenCV's luma is in fixed point: one level, and 65535 / 2**14 of one at 16 bits
                assert difference.max() <= (1 if pixels.shape[2] > channels else 0)
                assert made.manifest.schema(rung).parse(reader.data(row)) == record


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_pixels_at_odd_addresses(make, tmp_path, channels):
    made = make(tmp_path / "set", encoding="raw", bit_depth=16, channels=(1, 3))
    made.rewrite([dataclasses.replace(one, cause="c" * place) for place, one in enumerate(made.records())])
    reader = open_reader(made, channels)
    assert {int(start) % 2 for start in reader.index.image[:, 0]} == {0, 1}
    for row, (_, pixels) in enumerate(made.expected["full"]["train"]):
        difference = np.abs(reader.image(row).astype(np.float64) - with_channels(pixels, channels))
        assert difference.max() <= (1 if pixels.shape[2] > channels else 0)


def open_at_most_two(monkeypatch) -> None:
    smaller = functools.lru_cache(maxsize=2)(reader_module.open_shard.__wrapped__)
    monkeypatch.setattr(reader_module, "open_shard", smaller)


def test_many_threads_read_the_same(make, tmp_path, monkeypatch):
    open_at_most_two(monkeypatch)
    made = make(tmp_path / "set", encoding="source", channels=(1, 3), shards={"train": (2, 1, 1, 2, 1), "val": (1,)})
    reader = open_reader(made, 3)
    rows = np.random.default_rng(1).integers(0, 7, 600).tolist()
    expected = [with_channels(pixels, 3) for _, pixels in made.expected["full"]["train"]]
    paths = [record.path.encode() for record, _ in made.expected["full"]["train"]]
    start = threading.Barrier(8)

    def read(part: int) -> int:
        start.wait()
        for row in rows[part::8]:
            np.testing.assert_array_equal(reader.image(row), expected[row])
            assert reader.index.texts("path", np.array([row])) == [paths[row]]
        return len(rows[part::8])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(read, range(8))) == 600


def descriptors(folder) -> list[str]:
    """What this process has open below a folder."""
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
        except OSError:
            continue  # the listing's own
        if target.startswith(str(folder)):
            found.append(target)
    return sorted(found)


def test_no_more_files_are_open_than_allowed_and_none_in_the_end(make, tmp_path, monkeypatch):
    open_at_most_two(monkeypatch)
    made = make(tmp_path / "set", shards={"train": (1,) * 6, "val": (1,)}, sizes=())
    reader = open_reader(made, 1)
    assert descriptors(tmp_path) == []  # the index keeps none
    for _ in range(3):
        for row in range(6):
            np.testing.assert_array_equal(reader.image(row), made.expected["full"]["train"][row][1])
            assert len(descriptors(tmp_path)) <= 2
    assert descriptors(tmp_path) == [str(made.shard("train", 4)), str(made.shard("train", 5))]
    reader_module.open_shard.cache_clear()
    assert descriptors(tmp_path) == []


def test_a_failed_scan_leaves_no_file_open(dataset):
    path = dataset.shard()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptError):
        build_index(dataset.root, dataset.manifest, "full", "train")
    gc.collect()
    assert descriptors(dataset.root) == []


def test_damage_after_opening_is_named(dataset):
    path = dataset.shard()
    whole = path.read_bytes()
    begin, after = [frame.offset for frame in read_records(path)][1:]
    reader = open_reader(dataset, 1)
    where = f"^{path}: record 1 at byte {begin}: "
    for place in (begin + 12, begin + 300, after - 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CorruptError, match=rf"{where}the data \(\d+ bytes\) does not match its CRC$") as raised:
            reader.image(1)
        assert (raised.value.path, raised.value.record, raised.value.offset) == (str(path), 1, begin)
        reader.image(0), reader.image(2), reader.image(3)
    length = after - begin - 16
    for size in (after - 5, begin + 13, begin + 12, begin, 0):
        path.write_bytes(whole[:size])
        left = max(0, min(length, size - begin - 12))
        with pytest.raises(CorruptError, match=rf"{where}truncated: {left} of {length} bytes are left; "):
            reader.image(1)
    for framing in (
        whole[:begin] + bytes(12) + whole[begin + 12 :],
        whole[: after - 4] + bytes(len(whole) - after + 4),
    ):
        path.write_bytes(framing)  # the index knows place, length and CRC, so this record can still be read
        np.testing.assert_array_equal(reader.image(1), dataset.expected["full"]["train"][1][1])
    path.write_bytes(whole)
    np.testing.assert_array_equal(reader.image(1), dataset.expected["full"]["train"][1][1])


def test_another_shard_of_the_same_size_is_not_taken_for_the_one_that_was_indexed(make, tmp_path):
    """Every CRC of the file is right, and so are its name and size: the index holds the CRC of each record."""
    made = make(tmp_path / "set", encoding="raw", shards={"train": (2, 2), "val": (1,)}, shape=lambda number: (30, 40))
    first, second = made.shard("train", 0), made.shard("train", 1)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    reader = open_reader(made, 1)
    for row, path in enumerate((first, first, second, second)):
        with pytest.raises(CorruptError, match=rf"^{path}: record {row % 2} at byte \d+: .* does not match its CRC"):
            reader.image(row)


@pytest.mark.parametrize("encoding", ["source", "png"])
def test_an_image_that_does_not_decode_under_a_right_crc(make, tmp_path, encoding):
    made = make(tmp_path / "set", encoding=encoding)
    records = made.records()
    for image in (b"", b"garbage", records[0].image[: len(records[0].image) // 2], records[1].image):
        made.rewrite([dataclasses.replace(records[0], image=image), *records[1:]])
        reader = open_reader(made, 1)
        with pytest.raises(CorruptError, match=f"^{made.shard()}: record 0 at byte 0: "):
            reader.image(0)
        np.testing.assert_array_equal(reader.image(1), made.expected["full"]["train"][1][1])

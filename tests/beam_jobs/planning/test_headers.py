"""Rows, header tasks and fingerprints over real files."""

from __future__ import annotations

import dataclasses
import io
import random
import zipfile
from pathlib import Path
from unittest.mock import Mock, call

import numpy as np
import pytest
from PIL import Image

from beam_jobs.planning.headers import (
    HEAD_BYTES,
    TASK_IMAGES,
    IndexRow,
    fingerprint_listing,
    hash_image,
    read_rows,
    result_path,
    run_task,
    scan_image,
    write_rows,
    write_tasks,
)
from beam_jobs.sources.source_image import SourceImage
from beam_jobs.sources.stores import Folder, Zip
from cxr.errors import InputError
from tfrecords.images.codec import hash_pixels
from tfrecords.images.decode import ImageHeader, decode, read_header

LIMIT = 10**6
PIXELS = np.random.default_rng(5).integers(0, 256, (300, 400), dtype=np.uint8)


def save(kind: str, pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def image(path: str = "N/1.png", **more: object) -> SourceImage:
    return SourceImage(**{"path": path, "bytes": 10, "modified": 7, "labels": ("N",), **more})


ROWS = [
    IndexRow(image(), None),
    IndexRow(image("P/ü 2.png", labels=("A", "B"), split="train", patient="p", cause="viral"), None, reject="damaged"),
    IndexRow(
        image(labels=()), ImageHeader("JPEG", "L", 4, 5, 8, 6, True, True, tuple(range(64)), "dicom-1"), None, "ab"
    ),
    IndexRow(image("a\nb\u2028c.png"), ImageHeader("PNG", "I;16", 4, 5, 16)),
]


def test_rows_survive_json(tmp_path: Path):
    for row in ROWS:
        assert IndexRow.from_json(row.to_json()) == row
        assert "\n" not in row.to_json()
    write_rows(tmp_path / "rows.jsonl", ROWS)
    assert list(read_rows(tmp_path / "rows.jsonl")) == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_tasks_hold_all_rows_in_order(tmp_path: Path):
    rows = [IndexRow(image(f"{number}"), None) for number in range(2 * TASK_IMAGES + 3)]
    tasks = write_tasks(tmp_path / "tasks", rows)
    assert [len(list(read_rows(task))) for task in tasks] == [TASK_IMAGES, TASK_IMAGES, 3]
    assert [row for task in tasks for row in read_rows(task)] == rows
    assert sorted(tasks) == tasks
    assert len({result_path(task) for task in tasks} | set(tasks)) == 6


def test_a_task_is_done_once_and_in_order(tmp_path: Path):
    rows = [IndexRow(image(f"{number}", bytes=number), None) for number in range(50)]
    (task,) = write_tasks(tmp_path, rows)
    report, work = Mock(), Mock(side_effect=lambda row: dataclasses.replace(row, reject=f"seen {row.image.path}"))
    run_task(task, work, report)
    assert [row.reject for row in read_rows(result_path(task))] == [f"seen {number}" for number in range(50)]
    assert report.mock_calls == [call(1, number) for number in range(50)]
    before = result_path(task).stat()
    assert run_task(task, work, report) == list(read_rows(result_path(task)))
    assert work.call_count == 50
    assert result_path(task).stat().st_ino == before.st_ino


def test_a_task_that_fails_leaves_no_result(tmp_path: Path):
    (task,) = write_tasks(tmp_path, [IndexRow(image(str(number)), None) for number in range(9)])

    def fail_at_5(row: IndexRow) -> IndexRow:
        if row.image.path == "5":
            raise RuntimeError("the worker died")
        return row

    with pytest.raises(RuntimeError, match="the worker died"):
        run_task(task, fail_at_5, Mock())
    assert [path.name for path in tmp_path.iterdir()] == [task.name]
    run_task(task, lambda row: row, Mock())
    assert len(list(read_rows(result_path(task)))) == 9


def with_comments(data: bytes, size: int) -> bytes:
    """A JPEG with comment segments of `size` bytes in all before its first table."""
    block = b"\xff\xfe" + (65_000).to_bytes(2, "big") + bytes(64_998)
    return data[:2] + block * (size // 65_002 + 1) + data[2:]


class CountingFolder(Folder):
    """A folder that notes how much of a file was asked for."""

    def read(self, path: str, limit: int = -1) -> bytes:
        asked.append(limit)
        return super().read(path, limit)


asked: list[int] = []

HEADERS = {
    "within": (save("JPEG", quality=95), [HEAD_BYTES]),
    "comments": (with_comments(save("JPEG"), 200_000), [HEAD_BYTES, -1]),
    "icc": (save("JPEG", icc_profile=bytes(150_000)), [HEAD_BYTES, -1]),
    "tiff": (save("TIFF"), [HEAD_BYTES]),
    "tiff, directory at the end": (save("TIFF", compression="tiff_lzw"), [HEAD_BYTES, -1]),
    "tiff, second page beyond": (
        save("TIFF", save_all=True, append_images=[Image.fromarray(PIXELS)]),
        [HEAD_BYTES, -1],
    ),
    "webp": (save("WEBP", lossless=True), [HEAD_BYTES, -1]),
    "bmp": (save("BMP"), [HEAD_BYTES]),
    "png": (save("PNG"), [HEAD_BYTES]),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_within_and_beyond_the_first_64_kb(tmp_path: Path, name: str):
    data, reads = HEADERS[name]
    assert len(data) > HEAD_BYTES
    (tmp_path / "N").mkdir()
    (tmp_path / "N/1").write_bytes(data)
    asked.clear()
    source = CountingFolder(str(tmp_path))
    row = scan_image(source, image("N/1", bytes=len(data)), LIMIT, "salt")
    if "second page" in name:
        assert row.header is None
        assert row.reject == "TIFF with 2 pages; expected one"
    else:
        assert row.reject is None
        assert row.header == read_header(data) == decode(data).header
        assert row.header.icc_profile == (name == "icc")
    assert asked == reads


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"no image" * 20_000, "not an image of a supported format"),
        (save("PNG"), "400 x 300 is 0 million pixels; the limit is 0.1 million"),
    ],
)
def test_bad_headers_become_rejects(tmp_path: Path, data: bytes, reason: str):
    (tmp_path / "1").write_bytes(data)
    row = scan_image(Folder(str(tmp_path)), image("1", bytes=len(data)), 100_000, "")
    assert row.header is None
    assert str(row.reject).startswith(reason)


def test_a_file_that_cannot_be_read_stops_the_job_and_a_damaged_one_is_a_reject(tmp_path: Path):
    with pytest.raises(InputError, match="gone: No such file or directory"):
        scan_image(Folder(str(tmp_path)), image("gone"), LIMIT, "")
    (tmp_path / "1").write_bytes(save("PNG")[:5000])
    row = hash_image(Folder(str(tmp_path)), IndexRow(image("1"), None), LIMIT, 8)
    assert row.pixel_hash is None
    assert "truncated PNG" in str(row.reject)


def test_equal_pixels_have_equal_hashes_whatever_the_file(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("1", save("PNG"))
        archive.writestr("2", save("TIFF", pixels=np.dstack([PIXELS] * 3)))
        archive.writestr("3", save("PNG", pixels=PIXELS ^ np.eye(300, 400, dtype=np.uint8)))
    source = Zip(str(tmp_path / "in.zip"))
    hashes = [hash_image(source, IndexRow(image(name), None), LIMIT, 8).pixel_hash for name in "123"]
    assert hashes[0] == hashes[1] == hash_pixels(PIXELS[..., None])
    assert hashes[2] != hashes[0]
    deep = hash_image(source, IndexRow(image("1"), None), LIMIT, 16).pixel_hash
    assert deep == hash_pixels(PIXELS[..., None].astype(np.uint16) * 257), "as it is stored beside 16-bit images"


def test_a_file_of_absurd_size_is_not_even_opened(tmp_path: Path):
    asked.clear()
    row = scan_image(CountingFolder(str(tmp_path)), image("huge", bytes=10**12), LIMIT, "")
    assert "1000000000000 bytes; an image within --max-megapixels has at most" in str(row.reject)
    assert asked == []


def test_a_task_with_other_images_has_another_name(tmp_path: Path):
    rows = [IndexRow(image("1"), None)]
    changed = [IndexRow(image("1", modified=99), None)]
    assert write_tasks(tmp_path, rows) == write_tasks(tmp_path, rows) != write_tasks(tmp_path, changed)


def test_fingerprint_does_not_depend_on_order():
    images = [image(f"{number}", bytes=number) for number in range(40)]
    first = fingerprint_listing(images)
    assert fingerprint_listing(random.Random(1).sample(images, 40)) == first
    assert fingerprint_listing(images[1:]) != first


@pytest.mark.parametrize(
    "change",
    [{"path": "N/2.png"}, {"bytes": 11}, {"labels": ("P",)}, {"labels": ("N", "P")}, {"split": "train"},
     {"patient": "p"}, {"cause": "viral"}],
)  # fmt: skip
def test_fingerprint_tells_every_field(change: dict[str, object]):
    assert fingerprint_listing([image(**change)]) != fingerprint_listing([image()])


def test_fingerprint_does_not_tell_copies_apart():
    assert fingerprint_listing([image(modified=8)]) == fingerprint_listing([image()])

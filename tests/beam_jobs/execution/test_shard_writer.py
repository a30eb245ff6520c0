"""Shards written from real files and read back record by record."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock, call

import blake3
import cv2
import numpy as np
import pytest
from PIL import Image

from beam_jobs.execution.rings import VALUES, ring_of
from beam_jobs.execution.shard_writer import (
    ShardResult,
    ShardSettings,
    read_finished,
    result_path,
    rings_path,
    shard_paths,
    write_shard,
)
from beam_jobs.planning.plan import PlannedImage, ShardPlan
from beam_jobs.sources.stores import Folder
from cxr.errors import InputError, OutputError
from tfrecords.format.framing import read_records
from tfrecords.format.schema import Record
from tfrecords.format.shards import index_path, shard_path
from tfrecords.images import codec

silent = Mock()
RNG = np.random.default_rng(4)
SIZES = (32, 16)


def wave(height: int, width: int, depth: int = 8) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    scale = 2**depth - 1
    values = scale * (0.5 + 0.4 * np.sin(columns / 7) * np.cos(rows / 5)) + RNG.normal(0, scale / 40, (height, width))
    return np.clip(values, 0, scale).astype(np.uint16 if depth == 16 else np.uint8)


GREY = wave(50, 70)
TALL = wave(90, 40)
DEEP = wave(45, 61, 16)
COLOUR = np.dstack([GREY, 255 - GREY, np.roll(GREY, 9, 1)])
SMALL = wave(12, 20)
GOOD = {
    "grey.jpg": GREY,
    "tall.png": TALL,
    "colour.png": COLOUR,
    "same.tiff": np.dstack([TALL] * 3),
    "small.bmp": SMALL,
}
WHOLE = codec.encode_png(TALL[..., None])
BAD = {
    "empty.png": (b"", "the file is empty"),
    "text.png": (b"no image at all", "not an image of a supported format"),
    "cut.png": (WHOLE[: len(WHOLE) // 2], "truncated PNG"),
}


@pytest.fixture
def source(tmp_path: Path) -> Folder:
    root = tmp_path / "in"
    root.mkdir()
    for name, pixels in {**GOOD, "deep.png": DEEP}.items():
        Image.fromarray(pixels).save(root / name, quality=90)
    for name, (data, _) in BAD.items():
        (root / name).write_bytes(data)
    return Folder(str(root))


def plan_of(source: Folder, *names: str) -> ShardPlan:
    """Shard 1 of 3 of train; a name may be that of no file."""
    images = []
    for number, name in enumerate(names):
        path = Path(source.root, name)
        size = path.stat().st_size if path.exists() else 0
        images.append(PlannedImage(name, (number % 2,), "train", f"p{number}", "viral" * (number % 2), size, 1))
    return ShardPlan("train", 1, 3, tuple(images))


def settings_of(tmp_path: Path, **changes: object) -> ShardSettings:
    build, results = tmp_path / "build", tmp_path / "results"
    results.mkdir(exist_ok=True)
    settings = ShardSettings(str(build), str(results), "cxr", "source", SIZES, "raw", 8, False, 3, 10**6)
    return dataclasses.replace(settings, **changes)  # type: ignore[arg-type]


def read(settings: ShardSettings, plan: ShardPlan, rung: str = "full") -> list[Record]:
    return [settings.schemas[rung].parse(record.data) for record in read_records(shard_paths(settings, plan)[rung])]


def files_of(tmp_path: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for folder in ("build", "results")
        for path in sorted((tmp_path / folder).rglob("*"))
        if path.is_file()
    }


def expected_pixels(source: Folder, name: str) -> np.ndarray:
    """By Pillow; uint8 or uint16 [height, width, 1 or 3]."""
    with Image.open(Path(source.root, name)) as image:
        pixels = np.atleast_3d(np.asarray(image))
    return pixels[..., :1] if name == "same.tiff" else pixels


@pytest.mark.parametrize("bit_depth", [8, 16])
@pytest.mark.parametrize("rung_encoding", ["raw", "png"])
@pytest.mark.parametrize("encoding", ["source", "png", "raw"])
def test_records_hold_the_pixels_of_the_sources(
    tmp_path: Path, source: Folder, encoding: str, rung_encoding: str, bit_depth: int
):
    """In the planned order, grey beside colour, in every rung; 8-bit images x 257 in a set of 16 bits."""
    names = [*GOOD, *(["deep.png"] if bit_depth == 16 else [])]
    settings = settings_of(tmp_path, encoding=encoding, rung_encoding=rung_encoding, bit_depth=bit_depth)
    plan = plan_of(source, *names)
    result = write_shard(settings, plan, source, silent)
    assert result.rejects == ()
    assert list(result.files) == ["full", "32", "16"]
    for rung, size in (("full", None), ("32", 32), ("16", 16)):
        records = read(settings, plan, rung)
        assert [record.path for record in records] == names
        for record, planned in zip(records, plan.images, strict=True):
            pixels = expected_pixels(source, record.path)
            if bit_depth == 16 and pixels.dtype == np.uint8:
                pixels = pixels.astype(np.uint16) * 257
            if size and min(pixels.shape[:2]) > size:
                factor = size / min(pixels.shape[:2])
                shape = tuple(round(side * factor) for side in pixels.shape[:2])
                pixels = cv2.resize(pixels, shape[::-1], interpolation=cv2.INTER_AREA).reshape(*shape, -1)
            np.testing.assert_array_equal(codec.decode(record), pixels)
            assert (record.height, record.width, record.channels) == pixels.shape
            assert record.bit_depth == bit_depth
            assert (record.label, record.patient, record.cause) == (planned.labels[0], planned.patient, planned.cause)
            assert record.pixel_hash == codec.hash_pixels(pixels)
    kept = {"grey.jpg": "jpeg", "tall.png": "png", "colour.png": "png", "deep.png": "png"}
    for record, image in zip(read(settings, plan), result.images, strict=True):
        own = encoding == "source" and record.path in kept and (bit_depth == 8 or record.path == "deep.png")
        assert record.encoding == image.encoding == (kept[record.path] if own else encoding.replace("source", "png"))
        assert (record.image == Path(source.root, record.path).read_bytes()) == own


def test_area_averaging_of_a_rung(tmp_path: Path, source: Folder):
    """At a whole factor, each pixel is the mean of its block."""
    blocks = RNG.integers(0, 256, (64, 96), dtype=np.uint8)
    Image.fromarray(blocks).save(Path(source.root, "blocks.png"))
    settings, plan = settings_of(tmp_path), plan_of(source, "blocks.png")
    write_shard(settings, plan, source, silent)
    for rung, factor in (("32", 2), ("16", 4)):
        (record,) = read(settings, plan, rung)
        means = blocks.reshape(64 // factor, factor, 96 // factor, factor).mean(axis=(1, 3))
        assert np.abs(codec.decode(record)[..., 0] - means).max() <= 0.5


def test_rejects_are_listed_and_the_others_keep_their_order(tmp_path: Path, source: Folder):
    names = ["empty.png", "grey.jpg", "text.png", "tall.png", "cut.png", "small.bmp", "colour.png"]
    settings, plan = settings_of(tmp_path), plan_of(source, *names)
    report = Mock()
    result = write_shard(settings, plan, source, report)
    good = ["grey.jpg", "tall.png", "small.bmp", "colour.png"]
    for rung in settings.rungs:
        assert [record.path for record in read(settings, plan, rung)] == good
        assert result.files[rung].records == 4
    assert [image.path for image in result.images] == good
    reasons = dict(result.rejects)
    assert list(reasons) == ["empty.png", "text.png", "cut.png"]
    for name, (_, reason) in BAD.items():
        assert reason in reasons[name]
    assert report.mock_calls == [call(1, image.bytes) for image in plan.images]


def test_a_file_that_vanished_stops_the_job_and_leaves_nothing(tmp_path: Path, source: Folder):
    settings, plan = settings_of(tmp_path), plan_of(source, "grey.jpg", "gone.png")
    with pytest.raises(InputError, match=r"gone.png: No such file"):
        write_shard(settings, plan, source, silent)
    assert files_of(tmp_path) == {}


def test_a_shard_of_another_plan_or_damaged_on_the_disk_is_not_finished(tmp_path: Path, source: Folder):
    settings, plan = settings_of(tmp_path), plan_of(source, "grey.jpg", "tall.png")
    result = write_shard(settings, plan, source, silent)
    assert read_finished(settings, plan, every_byte=True) == result
    touched = dataclasses.replace(plan.images[0], modified=plan.images[0].modified + 1)
    assert read_finished(settings, dataclasses.replace(plan, images=(touched, *plan.images[1:]))) is None
    assert read_finished(dataclasses.replace(settings, encoding="raw"), plan) is None
    shards = shard_paths(settings, plan)
    for path in (shards["full"], index_path(shards["32"]), rings_path(settings, plan)):
        content = path.read_bytes()
        path.write_bytes(bytes(len(content)))  # as a power cut leaves it: the size without the content
        assert read_finished(settings, plan) == result
        assert read_finished(settings, plan, every_byte=True) is None
        path.write_bytes(content)


def test_a_shard_of_nothing_but_rejects_is_an_empty_file(tmp_path: Path, source: Folder):
    settings, plan = settings_of(tmp_path), plan_of(source, "empty.png")
    result = write_shard(settings, plan, source, silent)
    assert {shard.records for shard in result.files.values()} == {0}
    assert read(settings, plan) == []
    assert read_finished(settings, plan) == result


def test_the_limit_on_pixels_rejects(tmp_path: Path, source: Folder):
    settings, plan = settings_of(tmp_path, max_pixels=1000), plan_of(source, "small.bmp", "tall.png")
    result = write_shard(settings, plan, source, silent)
    assert [image.path for image in result.images] == ["small.bmp"]
    assert "--max-megapixels" in result.rejects[0][1]


def test_statistics(tmp_path: Path, source: Folder):
    names = ["grey.jpg", "colour.png", "deep.png", "small.bmp"]
    result = write_shard(settings_of(tmp_path, bit_depth=16), plan_of(source, *names), source, silent)
    for image in result.images:
        pixels = expected_pixels(source, image.path)
        scaled = pixels / np.iinfo(pixels.dtype).max
        assert (image.height, image.width, image.channels) == pixels.shape
        assert image.mean == pytest.approx(scaled.mean(), abs=1e-9)
        assert image.variance == pytest.approx(scaled.var(), abs=1e-9)


def test_the_rings_are_those_of_the_images_that_are_in_the_shard(tmp_path: Path, source: Folder):
    settings, plan = settings_of(tmp_path, bit_depth=16), plan_of(source, *GOOD, "empty.png", "deep.png")
    result = write_shard(settings, plan, source, silent)
    rings = np.load(rings_path(settings, plan))
    assert (rings.shape, rings.dtype) == ((len(GOOD) + 1, VALUES), np.uint8)
    for ring, image in zip(rings, result.images, strict=True):
        np.testing.assert_array_equal(ring, ring_of(expected_pixels(source, image.path)))


def test_multi_label_records(tmp_path: Path, source: Folder):
    plan = plan_of(source, "grey.jpg", "tall.png")
    labels = ((), (0, 2))
    images = tuple(dataclasses.replace(image, labels=own) for image, own in zip(plan.images, labels, strict=True))
    plan = dataclasses.replace(plan, images=images)
    settings = settings_of(tmp_path, multi_label=True)
    write_shard(settings, plan, source, silent)
    assert [record.label for record in read(settings, plan)] == list(labels)


def test_checksums_counts_and_json(tmp_path: Path, source: Folder):
    settings, plan = settings_of(tmp_path), plan_of(source, *GOOD, "empty.png")
    result = write_shard(settings, plan, source, silent)
    for rung, shard in result.files.items():
        path = shard_path(Path(settings.build), rung, "cxr", "train", 1, 3)
        assert path.name == "cxr-train.tfrecord-00001-of-00003"
        assert shard.bytes == path.stat().st_size
        assert shard.blake3 == blake3.blake3(path.read_bytes()).hexdigest()
        content = index_path(path).read_bytes()
        assert (shard.index_bytes, shard.index_blake3) == (len(content), blake3.blake3(content).hexdigest())
        assert shard.records == len(read(settings, plan, rung)) == len(GOOD)
    assert ShardResult.from_json(result.to_json()) == result == read_finished(settings, plan)
    assert set(files_of(tmp_path)) == {
        *(f"build/{rung}/cxr-train.{kind}-00001-of-00003" for rung in settings.rungs for kind in ("tfrecord", "index")),
        "results/train-00001.json",
        "results/train-00001.rings.npy",
    }


def states(tmp_path: Path) -> dict[str, tuple[int, int]]:
    paths = {name: tmp_path / name for name in files_of(tmp_path)}
    return {name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in paths.items()}


def test_a_finished_shard_is_not_written_again(tmp_path: Path, source: Folder):
    settings, plan = settings_of(tmp_path), plan_of(source, *GOOD, "empty.png")
    result = write_shard(settings, plan, source, silent)
    before = states(tmp_path)
    for path in Path(source.root).iterdir():
        path.unlink()  # nothing is read either
    report = Mock()
    assert write_shard(settings, plan, source, report) == result
    assert states(tmp_path) == before
    report.assert_called_once_with(len(GOOD) + 1, sum(image.bytes for image in plan.images))


HARMS = {
    "removed": Path.unlink,
    "shortened": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "lengthened": lambda path: path.write_bytes(path.read_bytes() + b"x"),
}


@pytest.mark.parametrize("where", ["full", "16", "index", "rings", "result"])
def test_a_shard_that_is_not_whole_is_written_again(tmp_path: Path, source: Folder, where: str):
    """The same bytes every time."""
    settings, plan = settings_of(tmp_path), plan_of(source, *GOOD, "text.png", *GOOD)
    result = write_shard(settings, plan, source, silent)
    before = files_of(tmp_path)
    shards = shard_paths(settings, plan)
    beside = {"index": index_path(shards["full"]), "rings": rings_path(settings, plan)}
    target = {**shards, **beside, "result": result_path(settings, plan)}[where]
    for what, harm in HARMS.items():
        harm(target)
        assert read_finished(settings, plan) is None, what
        assert write_shard(settings, plan, source, silent) == result
        assert files_of(tmp_path) == before


def test_more_rungs_than_the_result_knows_are_written(tmp_path: Path, source: Folder):
    plan = plan_of(source, "tall.png")
    write_shard(settings_of(tmp_path, sizes=()), plan, source, silent)
    assert read_finished(settings_of(tmp_path), plan) is None
    assert list(write_shard(settings_of(tmp_path), plan, source, silent).files) == ["full", "32", "16"]


def test_an_interrupted_shard_leaves_nothing(tmp_path: Path, source: Folder):
    settings, plan = settings_of(tmp_path), plan_of(source, *GOOD)
    report = Mock(side_effect=[None, None, KeyboardInterrupt])
    with pytest.raises(KeyboardInterrupt):
        write_shard(settings, plan, source, report)
    assert files_of(tmp_path) == {}


def test_a_place_that_cannot_be_written(tmp_path: Path, source: Folder):
    settings, plan = settings_of(tmp_path), plan_of(source, "tall.png")
    (tmp_path / "build").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match=r"cannot write cxr-train\.tfrecord-00001-of-00003 below .*build: Not a dir"):
        write_shard(settings, plan, source, silent)
    assert list((tmp_path / "results").iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount refused: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("full", ["images", "result"])
def test_a_full_disk(tmp_path: Path, tiny_disk: Path, source: Folder, full: str):
    """Full while the images are written, or only when the result is: no shard counts as finished, no scraps stay."""
    names = [f"noise{number}.png" for number in range(10 if full == "images" else 1)]
    for name in names:
        Image.fromarray(RNG.integers(0, 256, (240, 240), dtype=np.uint8)).save(Path(source.root, name))
    plan = plan_of(source, *names)
    if full == "images":
        settings = settings_of(tiny_disk, sizes=())
        (tiny_disk / "build/full").mkdir(parents=True)
    else:
        (tiny_disk / "results").mkdir()
        settings = dataclasses.replace(settings_of(tmp_path, sizes=()), results=str(tiny_disk / "results"))
        with pytest.raises(OSError, match="No space"), open(tiny_disk / "ballast", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    with pytest.raises(OutputError, match=r"the disk is full: No space left .* while writing cxr-train\..* below "):
        write_shard(settings, plan, source, silent)
    assert read_finished(settings, plan) is None
    assert list(tiny_disk.glob("results/*")) == list(tiny_disk.glob("results/.*")) == []
    if full == "images":
        assert [path for path in tiny_disk.rglob("*") if path.is_file()] == []
    else:
        (tiny_disk / "ballast").unlink()  # space was made, as the message asks
        assert write_shard(settings, plan, source, silent) == read_finished(settings, plan)

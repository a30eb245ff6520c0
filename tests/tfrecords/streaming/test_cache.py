"""Caches: the pixels are those of the records, whatever happened to the cache before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfrecords
from cxr.errors import OutputError
from tfrecords.streaming import cache
from tfrecords.streaming.loader import Loader, open_index, open_loader

SIZE = 20


def loader(root: Path, folder: Path, **options):
    """The loader of an evaluation stream with a disk cache in `folder`, as a new process would open it."""
    open_index.cache_clear()
    cache._OPEN.clear()
    data = tfrecords.open_dataset(root)
    chosen = {"image_size": SIZE, "batch_size": 4, "cache": "disk", "cache_dir": str(folder), **options}
    return Loader(data.root, data.manifest, data.options("train", **chosen))


def images(opened) -> np.ndarray:
    """All images of an epoch."""
    batches = [opened.load(step)[0] for step in range(opened.plan.steps_per_epoch)]
    return np.concatenate(batches)


def reads(opened, monkeypatch) -> list[int]:
    """Rows that a loader decodes from now on."""
    decoded: list[int] = []
    image = opened.reader.image
    monkeypatch.setattr(opened.reader, "image", lambda row: (decoded.append(row), image(row))[1])
    return decoded


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("options", [{}, {"image_size": None, "max_buckets": 2}, {"channels": 3, "fit": "pad"}])
def test_later_epochs_decode_nothing_and_are_equal(make, tmp_path, monkeypatch, kind, options):
    made = make(tmp_path / "set", encoding="raw", bit_depth=16)
    plain = (
        images(loader(made.root, tmp_path, **{"cache": "none", **options})) if options.get("image_size", 1) else None
    )
    opened = loader(made.root, tmp_path / "cache", **{"cache": kind, **options})
    decoded = reads(opened, monkeypatch)
    first = [opened.load(step) for step in range(opened.plan.steps_per_epoch)]
    assert sorted(decoded) == list(range(len(opened.index)))
    again = [opened.load(step) for step in range(opened.plan.steps_per_epoch)]
    assert len(decoded) == len(opened.index)
    for one, other in zip(first, again, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    if plain is not None:
        np.testing.assert_array_equal(np.concatenate([arrays[0] for arrays in first]), plain)


@pytest.mark.parametrize(
    "options",
    [
        {"first_step": 2, "seed": 9, "threads": 3, "prefetch": 1},
        {"balanced": True, "batch_size": 3},
        {"drop_remainder": True, "batch_size": 3},
        {"sample_weights": True, "channels": 3},
        {"image_size": (9, 14), "fit": "crop"},
        {"metadata": True},
        {"image_size": None},
    ],
)
@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.filterwarnings("ignore:a training stream .* read again")
def test_cached_epochs_are_the_epochs_without_a_cache(plain, tmp_path, kind, options):
    data = plain
    chosen = {"image_size": SIZE, "batch_size": 4, "training": True, "epochs": 4, **options}
    uncached = data.stream("train", cache="none", **chosen)
    cached = data.stream("train", cache=kind, cache_dir=tmp_path / "cache", **chosen)
    assert cached.element_spec == uncached.element_spec
    batches = list(uncached)
    assert len(batches) == 4 * data.steps_per_epoch("train", **chosen) - options.get("first_step", 0)
    for _ in range(2):  # the second time all epochs come out of the cache
        for one, other in zip(cached, batches, strict=True):
            tf.nest.map_structure(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("kind", [{"bit_depth": 16, "encoding": "raw"}, {"multi_label": True}, {"channels": (1, 3)}])
def test_cached_epochs_of_every_kind_of_data_set(make, tmp_path, kind):
    data = tfrecords.open_dataset(make(tmp_path / "set", **kind).root)
    options = {"image_size": SIZE, "batch_size": 2, "training": True, "epochs": 3}
    cached = data.stream("train", cache="memory", **options)
    for one, other in zip(cached, data.stream("train", cache="none", **options), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


def test_cached_epochs_do_without_python(dataset, monkeypatch):
    data = tfrecords.open_dataset(dataset.root)
    options = {"image_size": SIZE, "batch_size": 2, "training": True, "epochs": 3, "cache": "memory"}
    opened = open_loader(data.root, data.manifest.digest, data.options("train", **options))
    loaded: list[int] = []
    load = opened.load
    monkeypatch.setattr(opened, "load", lambda step: (loaded.append(step), load(step))[1])
    assert len(list(data.stream("train", **options))) == 9
    assert sorted(loaded) == [0, 1, 2]


def test_a_disk_cache_serves_the_next_process(dataset, tmp_path, monkeypatch):
    expected = images(loader(dataset.root, tmp_path))
    second = loader(dataset.root, tmp_path)
    decoded = reads(second, monkeypatch)
    np.testing.assert_array_equal(images(second), expected)
    assert decoded == []
    about = json.loads(next(tmp_path.glob("*/about.json")).read_text())
    assert about["split"] == "train"
    assert about["image_size"] == [SIZE, SIZE]


def test_streams_over_the_same_pixels_share_a_memory_cache(dataset, tmp_path, monkeypatch):
    data = tfrecords.open_dataset(dataset.root)
    one, other = (
        open_loader(data.root, data.manifest.digest, data.options("train", image_size=SIZE, seed=seed, cache="memory"))
        for seed in (1, 2)
    )
    images(one)
    decoded = reads(other, monkeypatch)
    images(other)
    assert decoded == []


def test_a_changed_data_set_never_meets_a_cache(make, tmp_path, monkeypatch):
    one = make(tmp_path / "one")
    images(loader(one.root, tmp_path / "cache"))
    other = make(tmp_path / "other", shards={"train": (5, 4), "val": (3,)})
    opened = loader(other.root, tmp_path / "cache")
    decoded = reads(opened, monkeypatch)
    images(opened)
    assert len(decoded) == len(opened.index)


def test_records_left_out_make_another_cache(make, tmp_path):
    """Rows after a damaged record mean other images than rows of the whole split."""
    made = make(tmp_path / "set")
    images(loader(made.root, tmp_path / "cache"))
    path = made.manifest.shard_paths(made.root, "24", "train")[0]
    damaged = bytearray(path.read_bytes())
    damaged[200] ^= 1
    path.write_bytes(damaged)
    with pytest.warns(UserWarning, match="skipped 1 of"):
        opened = loader(made.root, tmp_path / "cache", on_corrupt="skip", rung="24")
        plain = loader(made.root, tmp_path, cache="none", on_corrupt="skip", rung="24")
    np.testing.assert_array_equal(images(opened), images(plain))


DAMAGE = {
    "flipped pixel": lambda folder: _flip(folder / "pixels.bin", 7),
    "flipped check": lambda folder: _flip(folder / "checks.bin", 2),
    "pixels cut off": lambda folder: os.truncate(folder / "pixels.bin", 100),
    "checks cut off": lambda folder: os.truncate(folder / "checks.bin", 3),
    "pixels gone": lambda folder: (folder / "pixels.bin").unlink(),
    "checks gone": lambda folder: (folder / "checks.bin").unlink(),
    "pixels longer": lambda folder: os.truncate(folder / "pixels.bin", 1 << 20),
    "all zero": lambda folder: (folder / "pixels.bin").write_bytes(bytes((folder / "pixels.bin").stat().st_size)),
    "about gone": lambda folder: (folder / "about.json").unlink(),
}


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_mended(dataset, tmp_path, monkeypatch, damage):
    expected = images(loader(dataset.root, tmp_path))
    DAMAGE[damage](next(tmp_path.glob("*/pixels.bin")).parent)
    opened = loader(dataset.root, tmp_path)
    decoded = reads(opened, monkeypatch)
    np.testing.assert_array_equal(images(opened), expected)
    assert len(decoded) == {"flipped pixel": 1, "flipped check": 1, "about gone": 0}.get(damage, len(opened.index))
    again = loader(dataset.root, tmp_path)
    decoded = reads(again, monkeypatch)
    np.testing.assert_array_equal(images(again), expected)
    assert decoded == []


def test_a_half_filled_cache_goes_on(dataset, tmp_path, monkeypatch):
    begun = loader(dataset.root, tmp_path)
    begun.load(0)
    opened = loader(dataset.root, tmp_path)
    decoded = reads(opened, monkeypatch)
    images(opened)
    assert sorted(decoded) == list(range(4, len(opened.index)))


def test_two_processes_fill_one_cache(dataset, tmp_path):
    code = (
        "import sys, tfrecords, hashlib\n"
        "from tfrecords.streaming.loader import open_loader\n"
        "data = tfrecords.open_dataset(sys.argv[1])\n"
        "options = data.options('train', image_size=20, batch_size=4, training=True, seed=5, cache='disk', "
        "cache_dir=sys.argv[2])\n"
        "opened = open_loader(data.root, data.manifest.digest, options)\n"
        "print(hashlib.sha256(b''.join(opened.load(step)[0].tobytes() for step in range(6))).hexdigest())\n"
    )
    command = [sys.executable, "-c", code, str(dataset.root), str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
    results = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(results) == 1
    opened = loader(dataset.root, tmp_path)
    np.testing.assert_array_equal(images(opened), images(loader(dataset.root, tmp_path, cache="none")))


def test_threads_fill_one_cache(dataset, tmp_path):
    opened = loader(dataset.root, tmp_path, cache="memory")
    expected = images(loader(dataset.root, tmp_path, cache="none"))
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(images(opened))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_a_full_disk_is_said_once_and_training_goes_on(dataset, tmp_path, monkeypatch):
    """The file system's own refusal: a process may not write files beyond 1 KB here."""
    code = (
        "import sys, resource, signal, warnings, tfrecords\n"
        "from tfrecords.streaming.loader import open_loader\n"
        "data = tfrecords.open_dataset(sys.argv[1])\n"
        "options = data.options('train', image_size=20, batch_size=4, cache='disk', cache_dir=sys.argv[2])\n"
        "opened = open_loader(data.root, data.manifest.digest, options)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    images = sum(len(opened.load(step)[0]) for step in range(opened.plan.steps_per_epoch))\n"
        "print(images, len(seen), seen[0].message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(dataset.root), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{dataset.manifest.splits['train'].images} 1 the image cache")
    assert "cannot store more" in done.stdout


def test_a_folder_that_cannot_be_made_is_an_error(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="CXR_CACHE_DIR"):
        loader(dataset.root, tmp_path / "file")


def test_where_disk_caches_go(monkeypatch, tmp_path):
    monkeypatch.setenv("CXR_CACHE_DIR", str(tmp_path))
    assert cache.default_cache_dir() == tmp_path
    monkeypatch.delenv("CXR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.default_cache_dir() == tmp_path / "xdg" / "cxr-stream"


GB = 1 << 30


@pytest.mark.parametrize(
    ("needed", "stored", "decoding", "epochs", "memory", "disk", "expected"),
    [
        (1 * GB, 9 * GB, True, None, 8 * GB, 90 * GB, "memory"),
        (4 * GB, 9 * GB, True, None, 8 * GB, 90 * GB, "memory"),
        (5 * GB, 9 * GB, True, None, 8 * GB, 90 * GB, "disk"),
        (5 * GB, 9 * GB, False, None, 8 * GB, 90 * GB, "none"),  # raw records of less than twice the size
        (5 * GB, 10 * GB, False, None, 8 * GB, 90 * GB, "disk"),
        (5 * GB, 9 * GB, True, None, 8 * GB, 5 * GB, "none"),
        (5 * GB, 9 * GB, True, 1, 8 * GB, 90 * GB, "none"),  # a single pass does not fill a disk
        (1 * GB, 9 * GB, True, 1, 8 * GB, 90 * GB, "memory"),  # but a validation stream is used every epoch
        (1 * GB, 9 * GB, True, 2, 8 * GB, 90 * GB, "memory"),
    ],
)
def test_what_auto_chooses(monkeypatch, tmp_path, needed, stored, decoding, epochs, memory, disk, expected):
    monkeypatch.setattr(cache, "available_memory", lambda: memory)
    monkeypatch.setattr(cache, "_free_disk", lambda folder: disk)
    assert cache.choose_cache(needed, stored, decoding, epochs, "key", tmp_path) == expected


def test_auto_counts_what_a_disk_cache_has_taken_already(monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "available_memory", lambda: 0)
    monkeypatch.setattr(cache, "_free_disk", lambda folder: 1 << 20)
    arguments = (2 << 20, 9 << 20, True, None, "key", tmp_path)
    assert cache.choose_cache(*arguments) == "none"
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / cache.PIXELS_NAME).write_bytes(bytes(2 << 20))
    assert cache.choose_cache(*arguments) == "disk"


def test_auto_leaves_room_for_what_other_caches_will_take(monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "available_memory", lambda: 10 << 20)
    arguments = (4 << 20, 5 << 20, False, None, "other", tmp_path)
    assert cache.choose_cache(*arguments) == "memory"
    begun = cache.open_cache("memory", "begun", np.array([0, 2 << 20, 4 << 20]), tmp_path, {})
    assert cache.choose_cache(*arguments) == "none"
    for row in range(2):
        begun.write(row, np.zeros(2 << 20, np.uint8))
    assert cache.choose_cache(*arguments) == "memory"


def test_auto_goes_on_without_a_cache_that_cannot_be_made(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "available_memory", lambda: 0)
    folder = tmp_path / "cache"
    data = tfrecords.open_dataset(dataset.root)
    options = data.options("train", image_size=SIZE, training=True, cache="auto", cache_dir=folder, rung="full")
    monkeypatch.setattr(cache, "DiskCache", lambda folder, *_: (_ for _ in ()).throw(OutputError("no")))
    with pytest.warns(UserWarning, match="continuing without a cache: no"):
        assert open_loader(data.root, data.manifest.digest, options).cache.kind == "none"


def test_auto_uses_what_is_open(dataset, tmp_path):
    kept = loader(dataset.root, tmp_path, cache="memory")
    data = tfrecords.open_dataset(dataset.root)
    options = data.options("train", image_size=SIZE, batch_size=4, cache="auto", cache_dir=str(tmp_path))
    opened = open_loader(data.root, data.manifest.digest, options)  # one epoch, which alone would not be cached
    assert opened.cache is kept.cache


def test_memory_that_is_not_there_is_an_error():
    starts = np.array([0, 1 << 62])
    with pytest.raises(OutputError, match="use cache='disk'"):
        cache.open_cache("memory", "key", starts, Path(), {})

"""`cxr bench`: how fast a data set streams, stage by stage, and what to change."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tabulate import tabulate

from cxr.command import Command, Given
from cxr.console import EXIT_OK, progress_bar, run_command
from cxr.errors import OutputError
from cxr.files import write_json
from cxr.kinds import Choice, Parsed, Real, Text, Whole, directory, file_path
from cxr.machine import keep_tensorflow_small, load_tensorflow_quietly, usable_cores
from cxr.options import Options, option, options
from tfrecords.dataset import open_dataset
from tfrecords.images.fit_modes import FITS

if TYPE_CHECKING:
    from tfrecords.streaming.loader import Loader
    from tfrecords.streaming.stream_options import StreamOptions

STAGES = ("read", "check", "decode", "fit", "batch")
"""What a stream does to an image, in order. Each is measured together with all before it."""
_ROUNDS = 3
_FILL_SECONDS = 60
"""Time that filling a memory cache may take for `cached` to be measured."""
_CHUNK = 16
"""Images that a thread takes at once."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage, measured together with all before it.

    Attributes:
      name: of `STAGES`, or `cached`.
      images_s: images per second, all threads together.
      megapixels_s: millions of stored pixels per second.
      gigabytes_s: stored bytes per second, in 1e9.
      own_ms: thread time that this stage adds to an image, milliseconds.
    """

    name: str
    images_s: float
    megapixels_s: float
    gigabytes_s: float
    own_ms: float


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What `measure` found.

    Attributes:
      rung, encoding: what was read.
      images: in the split.
      opening_us: microseconds that opening the split took for each record, which happens once.
      threads: that worked at the same time.
      stages: in order, then `cached` where the fitted images would fit into memory.
      bottleneck: the stage that takes the most time of an image.
      advice: what would make the stream faster, most effective first.
    """

    rung: str
    encoding: str
    images: int
    opening_us: float
    threads: int
    stages: tuple[Stage, ...]
    bottleneck: str
    advice: tuple[str, ...]


def measure(root: str | Path, split: str, seconds: float = 2.0, quiet: bool = True, **options: Any) -> Benchmark:
    """Measures every stage of a stream.

    The stages take turns over three rounds, and the best of each counts: on a shared machine the fastest run is
    the one that was disturbed least. The first round also brings the files into the page cache.

    Args:
      root: the data set.
      split: to read.
      seconds: for each stage, in all.
      quiet: show no progress.
      options: of `StreamOptions`, except `training`, `epochs` and `cache`, which are set.

    Raises:
      CxrError: the data set cannot be read or the options do not fit it.
    """
    from tfrecords.streaming.loader import open_index, open_loader
    from tfrecords.streaming.stream import make_stream, plain_errors

    data = open_dataset(root)
    chosen = data.options(split, training=True, epochs=None, cache="none", **options)
    open_index.cache_clear()
    began = time.perf_counter()
    loader = open_loader(data.root, data.manifest.digest, chosen)
    opening_us = (time.perf_counter() - began) * 1e6 / len(loader.index)
    stream = functools.partial(make_stream, data.root, data.manifest.digest)
    order = np.concatenate(loader.plan.epoch(0)).tolist()
    works = {name: _stage_work(loader, name) for name in STAGES if name in ("read", "check", "decode", "fit")}
    rates = dict.fromkeys(STAGES, 0.0)
    with (
        ThreadPoolExecutor(chosen.thread_count) as pool,
        progress_bar(_ROUNDS * len(STAGES), "measuring", quiet, unit="stage") as bar,
    ):
        for _ in range(_ROUNDS):
            for name in STAGES:
                if name in works:
                    rate = _thread_rate(pool, chosen.thread_count, works[name], order, seconds / _ROUNDS)
                else:
                    with plain_errors():
                        rate = _stream_rate(stream(chosen), seconds / _ROUNDS)
                rates[name] = max(rates[name], rate)
                bar.update()
    stages = _stages(loader, rates, chosen.thread_count)
    bottleneck = max(stages, key=lambda stage: stage.own_ms).name
    with plain_errors():
        cached = _cached(stream, loader, stages[-1].images_s, seconds)
    return Benchmark(
        loader.rung,
        loader.manifest.rungs[loader.rung].encoding,
        len(loader.index),
        opening_us,
        chosen.thread_count,
        (*stages, *cached),
        bottleneck,
        tuple(_advice(loader, bottleneck, stages, cached)),
    )


def _stage_work(loader: Loader, name: str) -> Callable[[int], object]:
    """What is done to one row, up to and with a stage."""
    from tfrecords.images.fit import fit

    reader, options = loader.reader, loader.options
    if name == "read":
        return lambda row: reader.data(row, check=False)
    if name == "check":
        return reader.data
    if name == "decode" or options.image_size is None:
        return reader.image
    shape = (*options.size, reader.channels)

    def fitted(row: int) -> None:
        fit(reader.image(row), np.empty(shape, reader.dtype), options.fit)

    return fitted


def _thread_rate(
    pool: ThreadPoolExecutor, threads: int, work: Callable[[int], object], order: list[int], seconds: float
) -> float:
    """images/s of threads that each do `work` to rows in that order, from different places of it on."""
    stop = time.perf_counter() + seconds

    def go(first: int) -> int:
        done = 0
        while True:
            for _ in range(_CHUNK):
                work(order[(first + done) % len(order)])
                done += 1
            if time.perf_counter() >= stop:
                return done

    began = time.perf_counter()
    done = sum(pool.map(go, [part * len(order) // threads for part in range(threads)]))
    return done / (time.perf_counter() - began)


def _stream_rate(dataset: Any, seconds: float) -> float:
    """images/s of a `tf.data.Dataset`, after its first batch."""
    batches = iter(dataset)
    next(batches)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        images = next(batches)[0]
        done += len(images["image"] if isinstance(images, dict) else images)
    return done / (time.perf_counter() - began)


def _stages(loader: Loader, rates: dict[str, float], threads: int) -> tuple[Stage, ...]:
    """Rates as table rows. A stage cannot be faster than what it contains: where noise says so, it adds nothing."""
    stages, before = [], 0.0
    for name in STAGES:
        total = max(before, threads / rates[name] * 1e3)
        stages.append(_stage(loader, name, threads / total * 1e3, total - before))
        before = total
    return tuple(stages)


def _stage(loader: Loader, name: str, images_s: float, own_ms: float) -> Stage:
    """A table row, its other rates from the mean image."""
    megapixels = loader.index.shape[:, :2].astype(float).prod(axis=1).mean() / 1e6
    gigabytes = loader.index.length.mean() / 1e9
    return Stage(name, images_s, float(images_s * megapixels), float(images_s * gigabytes), own_ms)


def _cached(
    stream: Callable[[StreamOptions], Any], loader: Loader, images_s: float, seconds: float
) -> tuple[Stage, ...]:
    """The stream from a memory cache, where `auto` would allow it and filling it does not take too long."""
    from tfrecords.streaming.cache import fits_memory

    if not fits_memory(loader.fitted_bytes) or len(loader.index) > _FILL_SECONDS * images_s:
        return ()
    dataset = stream(dataclasses.replace(loader.options, cache="memory"))
    for _ in dataset.take(loader.plan.steps_per_epoch):
        pass
    rate = _stream_rate(dataset, seconds / _ROUNDS)
    return (_stage(loader, "cached", rate, loader.options.thread_count / rate * 1e3),)


def _advice(loader: Loader, bottleneck: str, stages: Sequence[Stage], cached: Sequence[Stage]) -> list[str]:
    """What would help, most effective first."""
    from tfrecords.streaming.cache import fits_memory

    options, manifest = loader.options, loader.manifest
    advice = []
    rung = manifest.rungs[loader.rung]
    if options.image_size is not None:
        wanted, shorter = max(options.size), loader.index.shape[:, :2].min(axis=1).mean()
        if rung.size is None and shorter > 1.3 * wanted and bottleneck != "batch":
            advice.append(
                f"add a rung: the stored images are {shorter / wanted:.1f} times as large as needed. "
                f"`cxr preprocess ... --sizes {wanted} --overwrite`"
            )
    if bottleneck == "decode" and rung.encoding != "raw":
        advice.append(f"store pixels instead of {rung.encoding} files: `cxr preprocess ... --encoding raw`")
    if cached and cached[0].images_s > 1.5 * stages[-1].images_s:
        advice.append(
            f"keep the fitted images: cache='memory' or 'auto' makes epochs after the first "
            f"{cached[0].images_s / stages[-1].images_s:.0f} times as fast"
        )
    elif not fits_memory(loader.fitted_bytes):
        advice.append("the fitted images do not fit into memory: cache='disk' on a fast local disk")
    if bottleneck == "read":
        advice.append("reading is what takes longest: a faster or local disk, or a smaller rung")
    if options.thread_count < usable_cores():
        advice.append(f"use more threads: {options.thread_count} of {usable_cores()} cores")
    if not advice:
        advice.append("nothing simple: this is what these cores do; more cores would help")
    return advice


def to_text(found: Benchmark, options: str) -> str:
    """A benchmark as tables."""
    total = sum(stage.own_ms for stage in found.stages if stage.name != "cached")
    rows = [
        [
            stage.name,
            f"{stage.images_s:,.0f}",
            f"{stage.megapixels_s:,.0f}",
            f"{stage.gigabytes_s:.2f}",
            f"{stage.own_ms:.3f}",
            "" if stage.name == "cached" else f"{stage.own_ms / total:.0%}",
        ]
        for stage in found.stages
    ]
    headers = ["up to", "images/s", "megapixels/s", "GB/s", "own ms an image", "share"]
    lines = [
        f"rung '{found.rung}' ({found.encoding}), {found.images} images, {options}, {found.threads} threads; "
        f"opening took {found.opening_us:.1f} us a record, once",
        "",
        tabulate(rows, headers, colalign=["left", *["right"] * 5], disable_numparse=True),
        "",
        f"bottleneck: {found.bottleneck}",
        *(f"  - {advice}" for advice in found.advice),
    ]
    return "\n".join(lines)


def _image_size(value: Any) -> int | None:
    return None if value in (None, "native") else Whole(1).check(int(value))


@options
class BenchOptions(Options):
    """What `cxr bench` measures."""

    data: str = option(directory(), "a data set written by `cxr preprocess`", positional=True)
    split: str = option(Text(metavar="NAME"), "split to read", default="train")
    image_size: int | None = option(
        Parsed(_image_size, "a side in pixels, or native", "N|native"), "side in pixels, or native", default=224
    )
    batch_size: int = option(Whole(1), "images a batch", default=32)
    fit: str = option(Choice(FITS), "how images of another shape come to that size", default="squash")
    rung: str | None = option(
        Text(metavar="NAME"), "resolution to read", default=None, unset="the smallest that suffices"
    )
    threads: int | None = option(Whole(1), "threads", default=None, unset="one for each core")
    seconds: float = option(Real(above=0, metavar="S"), "time for each stage", default=3.0)
    json: str | None = option(file_path(), "write the figures here too", default=None)


def run(given: Given) -> int:
    """Measures the data set of a command line."""
    asked = given.make(BenchOptions)
    names = ("image_size", "batch_size", "fit", "rung", "threads")
    options = {name: getattr(asked, name) for name in names}
    open_dataset(asked.data).check_stream(asked.split, **options)
    keep_tensorflow_small()
    load_tensorflow_quietly()
    found = measure(asked.data, asked.split, seconds=asked.seconds, quiet=False, **options)
    print(to_text(found, f"image size {asked.image_size or 'native'}, batches of {asked.batch_size}"))
    if asked.json:
        try:
            write_json(Path(asked.json), dataclasses.asdict(found), indent=1)
        except OSError as error:
            raise OutputError(f"cannot write {asked.json}: {error.strerror}") from error
    return EXIT_OK


COMMAND = Command(
    "bench",
    "Measures how fast a data set streams, stage by stage, names the bottleneck and says what to change.",
    run, BenchOptions,
    "read: bytes of the records. check: and their CRCs. decode: to pixels. fit: to the image size. "
    "batch: the whole stream as training gets it. cached: the same from a memory cache.",
    needs="stream",
)  # fmt: skip
main = COMMAND.main

if __name__ == "__main__":
    raise SystemExit(run_command(main))

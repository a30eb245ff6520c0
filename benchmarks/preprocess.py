"""How fast `cxr preprocess` is, beside what limits it and beside a plain Beam job.

    python benchmarks/preprocess.py --images DIR [--images-count 2000] [--rounds 3]

DIR holds class folders of JPEG files; without it phantoms are drawn. The images are copied under distinct
names until there are enough. Everything is measured in one run, the contenders in turn, and the medians of
the rounds are compared as ratios:

  decode limit   libjpeg-turbo on all cores and nothing else: files in memory, pixels thrown away
  write limit    the bytes of the raw data set, written to one file in 1 MiB blocks, and fsync; a job too
                 waits for the disk, once, at its end, which its whole time holds and its steady state not
  plain Beam     Create | Map(read and decode) | WriteToTFRecord, as tutorials have it
  cxr source     the job, keeping verified source files
  cxr raw        the job, storing pixels

A job's steady state is taken from the times at which its shards were finished, without the start of
processes; its whole time is given too. Memory is the high-water mark of the largest worker process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import simplejpeg
from tabulate import tabulate

from cxr.machine import usable_cores
from tfrecords.format.manifest import read_manifest

CORES = usable_cores()
PLAIN_IMAGES = (100, 600)
"""Images of the two runs of the plain job whose difference gives its steady state."""
DECODE_SECONDS = 4.0
BLOCK = os.urandom(1 << 20)


def replicate(source: Path, target: Path, count: int) -> list[Path]:
    """Copies images under distinct names and patients, `count` or more, keeping the class folders; shuffled."""
    originals = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    copies = []
    for number in range(-(-count // len(originals))):
        for path in originals:
            copy = target / "train" / path.parent.name / f"copy{number}-{path.name}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            copies.append(copy)
    random.Random(0).shuffle(copies)  # any part of the list is then a fair sample of it
    return copies


def decode_for(paths: list[Path], seconds: float) -> tuple[int, float]:
    """Decodes files from memory, over and over: (images, seconds)."""
    files = [path.read_bytes() for path in paths]
    for data in files[:20]:
        simplejpeg.decode_jpeg(data, "GRAY")
    done = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        simplejpeg.decode_jpeg(files[done % len(files)], "GRAY")
        done += 1
    # whole rounds count for their own sizes only; with hundreds of files in random order that is noise
    return done, time.perf_counter() - began


def decode_limit(paths: list[Path]) -> float:
    """images/s of libjpeg-turbo alone on all cores."""
    with ProcessPoolExecutor(CORES, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = [paths[core::CORES][:200] for core in range(CORES)]
        results = list(pool.map(decode_for, parts, [DECODE_SECONDS] * CORES))
    return sum(done / seconds for done, seconds in results)


def write_limit(folder: Path, size: int) -> float:
    """bytes/s of one plain sequential write of `size` bytes, fsync counted."""
    path = folder / "plain-write"
    began = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for _ in range(size // len(BLOCK)):
            file.write(BLOCK)
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    path.unlink()
    return size / seconds


PLAIN_JOB = """
import sys, apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

def encode(path):
    import numpy as np
    from PIL import Image
    from tfrecords.format.example_proto import Example
    pixels = np.asarray(Image.open(path).convert("L"))
    example = Example()
    example.features.feature["image"].bytes_list.value.append(pixels.tobytes())
    example.features.feature["shape"].int64_list.value.extend(pixels.shape)
    return example.SerializeToString()

paths = open(sys.argv[1]).read().split("\\n")
options = PipelineOptions(["--runner=FnApiRunner", "--direct_running_mode=multi_processing",
                           "--direct_num_workers=" + sys.argv[3]])
with beam.Pipeline(options=options) as pipeline:
    (pipeline | beam.Create(paths) | beam.Map(encode)
     | beam.io.WriteToTFRecord(sys.argv[2] + "/plain", num_shards=16))
"""


def plain_beam(paths: list[Path], folder: Path) -> float:
    """images/s of the plain job in steady state: from the times of two sizes, so that its start drops out."""
    script = folder / "plain_job.py"
    script.write_text(PLAIN_JOB)
    times = []
    for count in PLAIN_IMAGES:
        listing, output = folder / "plain.txt", folder / "plain"
        listing.write_text("\n".join(map(str, paths[:count])))
        output.mkdir()
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, str(script), str(listing), str(output), str(CORES)], check=True, capture_output=True
        )
        times.append(time.perf_counter() - began)
        shutil.rmtree(output)
    return (PLAIN_IMAGES[1] - PLAIN_IMAGES[0]) / (times[1] - times[0])


class PeakMemory:
    """Watches worker processes and keeps the largest high-water mark among them, bytes."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if b"sdk_worker_main" in (process / "cmdline").read_bytes():
                        status = (process / "status").read_text()
                        self.bytes = max(self.bytes, int(status.split("VmHWM:")[1].split()[0]) * 1024)
                except (OSError, IndexError, ValueError):
                    continue


def cxr(images: Path, folder: Path, encoding: str) -> dict[str, float]:
    """One job: images/s in steady state and over all, and peak memory of a worker."""
    output = folder / "data"
    shutil.rmtree(output, ignore_errors=True)
    command = ["preprocess", "--input", str(images), "--output", str(output), "--encoding", encoding, "--quiet"]
    began = time.perf_counter()
    with PeakMemory() as memory:
        subprocess.run([sys.executable, "-m", "cxr", *command], check=True, capture_output=True)
    whole = time.perf_counter() - began
    manifest = read_manifest(output)
    finished = sorted(
        (path.stat().st_mtime, shard.records)
        for split, shards in manifest.rungs["full"].shards.items()
        for path, shard in zip(manifest.shard_paths(output, "full", split), shards, strict=True)
    )
    # from when each worker has finished a shard until one worker has no more
    first, last = finished[CORES - 1], finished[-CORES]
    records = sum(count for moment, count in finished if first[0] < moment <= last[0])
    total = sum(count for _, count in finished)
    result = {
        "steady": records / (last[0] - first[0]),
        "whole": total / whole,
        "seconds": whole,
        "memory": memory.bytes,
        "megapixels": manifest.sizes["pixels"] / 1e6 / total,
        "bytes": sum(shard.bytes for shards in manifest.rungs["full"].shards.values() for shard in shards),
    }
    shutil.rmtree(output)
    return result


def in_turn(rounds: int, contenders: dict[str, Callable[[], object]]) -> dict[str, list]:
    """Runs every contender once a round, so that a machine that slows down slows them all."""
    results: dict[str, list] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            os.sync()  # what one contender left to be written is not the next one's burden
            results[name].append(run())
            print(f"round {number + 1}: {name} done", file=sys.stderr)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of JPEG files in class folders (phantoms)")
    parser.add_argument("--images-count", type=int, default=2000, help="copy them until there are so many (2000)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as name:
        folder = Path(name)
        source = arguments.images
        if source is None:
            source = folder / "phantoms"
            subprocess.run(
                [sys.executable, "-m", "cxr", "phantom", "--to", str(source), "--patients", "120", "--encoding-leak"],
                check=True,
            )
        paths = replicate(source, folder / "images", arguments.images_count)
        fourfold = replicate(source, folder / "fourfold", 4 * len(paths))
        one = cxr(folder / "images", folder, "raw")
        results = in_turn(
            arguments.rounds,
            {
                "decode limit": lambda: decode_limit(paths),
                "cxr source": lambda: cxr(folder / "images", folder, "source"),
                "write limit": lambda: write_limit(folder, int(one["bytes"])),
                "cxr raw": lambda: cxr(folder / "images", folder, "raw"),
                "plain Beam": lambda: plain_beam(paths, folder),
            },
        )
        large = cxr(folder / "fourfold", folder, "source")
    megapixels = one["megapixels"]
    raw_bytes = one["bytes"] / len(paths)

    def median(name: str, key: str | None = None) -> float:
        return statistics.median(value[key] if key else value for value in results[name])

    def ratio(top: Callable[[int], float], bottom: Callable[[int], float]) -> float:
        return statistics.median(top(number) / bottom(number) for number in range(arguments.rounds))

    decode = results["decode limit"]
    write = [speed / raw_bytes for speed in results["write limit"]]
    steady = {kind: [run["steady"] for run in results[f"cxr {kind}"]] for kind in ("source", "raw")}
    rows = [
        ["decode limit", median("decode limit"), None],
        ["write limit of raw pixels", statistics.median(write), None],
        ["plain Beam, steady", median("plain Beam"), None],
        ["cxr source, steady", median("cxr source", "steady"), median("cxr source", "memory")],
        ["cxr source, whole job", median("cxr source", "whole"), None],
        ["cxr raw, steady", median("cxr raw", "steady"), median("cxr raw", "memory")],
        ["cxr raw, whole job", median("cxr raw", "whole"), None],
        [f"cxr source, {len(fourfold)} images, steady", large["steady"], large["memory"]],
        [f"cxr source, {len(fourfold)} images, whole job", large["whole"], None],
    ]
    table = [[name, rate, rate * megapixels, memory / 2**20 if memory else ""] for name, rate, memory in rows]
    ratios = {
        "source / decode limit": ratio(lambda i: steady["source"][i], lambda i: decode[i]),
        "raw / the lower of decode and write limit": ratio(
            lambda i: steady["raw"][i], lambda i: min(decode[i], write[i])
        ),
        "source / plain Beam": ratio(lambda i: steady["source"][i], lambda i: results["plain Beam"][i]),
        "worker memory, 4 x the images / 1 x": large["memory"] / median("cxr source", "memory"),
    }
    print(f"{len(paths)} images of {megapixels:.2f} megapixels, {CORES} cores, {platform.machine()}")
    print(tabulate(table, ["", "images/s", "megapixels/s", "worker MB"], floatfmt=".0f"))
    print(tabulate(list(ratios.items()), ["ratio (median of rounds)", ""], floatfmt=".2f"))
    if arguments.json:
        figures = {"cores": CORES, "images": len(paths), "megapixels": megapixels, "ratios": ratios}
        figures["rows"] = [
            dict(zip(("name", "images_s", "megapixels_s", "worker_mb"), row, strict=True)) for row in table
        ]
        figures["runs"] = results
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

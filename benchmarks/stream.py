"""How fast our stream is, beside other loaders and beside what limits it.

    python benchmarks/stream.py --images DIR [--copies 9] [--rounds 3] [--sizes 224,512,native]
    python benchmarks/stream.py --images DIR --memory

DIR holds class folders of JPEG files. They are copied under distinct names, because a few make too short an
epoch, and cut to whole batches. Every loader delivers them once, as uint8 batches of 32, grey, squashed
to a square, or at native size (ours padded in batches with a mask; the others, which cannot batch images of
different sizes, one by one or as lists). They take turns within a round, each epoch in a process of its own,
with the files in the page cache. The clock runs from before the loader is built to its last batch, imports
excluded; `steady` is the rate after the first batch, without start-up; `CPU ms` is the processor time an image
takes, worker processes included. Medians of the rounds are given.

  ours-rungs     our stream over source files with 512 and 256 rungs, of which it takes the fitting one
  ours-raw       over full images stored as pixels, no rungs
  ours-source    over full images stored as their own files, no rungs: the bytes that the others decode too
  ours-cached    the epochs after the first with the batches' images kept in memory
  keras          keras.utils.image_dataset_from_directory
  generator      Keras's legacy ImageDataGenerator.flow_from_directory, with a thread a core
  tfrecord       TFRecordDataset as tutorials write it, AUTOTUNE throughout, over our full source shards
  tfds           tfds.builder_from_directory over our full source shards
  dali, dali-linear   NVIDIA DALI on CPU, over the files; antialiased, its default, or not
  grain, grain-threads   Grain over ArrayRecord, with a process or a thread a core; OpenCV, area averages
  grain-linear, grain-scaled   with a thread a core, tuned further: OpenCV's linear filter, which aliases as that
                 of TensorFlow does; or libjpeg-turbo's scaled decoding, then area averages
  webdataset     WebDataset over tar shards with its MultiLoader, a process a core; decoded by OpenCV
  limit-decode   libjpeg-turbo on all cores and nothing else
  limit-read-*   tf.data.TFRecordDataset over the same shards, records thrown away
  limit-memory   shuffled batches gathered by tf.data from one array in memory, after a first epoch of it

DALI, Grain and WebDataset run under --peer-python, for which `benchmarks/requirements.txt` says what to
install; one that is missing is reported as such. `--memory` measures the peak memory of our stream instead,
over the images and over eight times as many.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from epoch import CACHED, LOADERS
from peers import BATCH, PEERS
from tabulate import tabulate

from cxr.machine import usable_cores

CORES = usable_cores()
HERE = Path(__file__).parent
TIMEOUT_SECONDS = 900
FOREIGN = {"dali": "", "dali-linear": "", "webdataset": "tar"} | {
    name: "array_record" for name in PEERS if name.startswith("grain")
}
"""Loaders that run under --peer-python, and the form of the images they need written."""
DATASETS = {
    "rungs": ("--encoding", "source", "--sizes", "512,256"),
    "raw": ("--encoding", "raw"),
    "source": ("--encoding", "source"),
}
READS = {"ours-cached": "rungs", "tfrecord": "source", "tfds": "source"}
READS |= {f"ours-{name}": name for name in DATASETS} | {f"limit-read-{name}": name for name in DATASETS}
"""The data set that each loader reads, where it reads one."""
LIMITS = {
    "ours-rungs": "limit-read-rungs",
    "ours-raw": "limit-read-raw",
    "ours-source": "limit-decode",
    "ours-cached": "limit-memory",
}
"""What bounds each of our variants from above."""
RESIZED = (
    *("ours-rungs", "ours-cached", "dali-linear", "grain-linear", "grain-scaled"),
    *("limit-read-rungs", "limit-memory"),
)
"""Loaders that are left out at native size, most because they do there what another one does."""
PARTS = {"once": 1, "more": 8}
"""How many times the images are taken where peak memory is measured."""
RATES = ("rate", "steady")
GREY_LEVELS_APART = 2.0
"""How far a loader's mean pixel may be from the median of all before the table says so: filters differ."""


def applies(name: str, size: str) -> bool:
    """Whether a loader has something of its own to measure at a size."""
    if name in ("limit-decode", "limit-read-raw", "limit-read-source"):
        return size == "native"  # they do not depend on the size
    return size != "native" or name not in RESIZED


def replicate(source: Path, target: Path, copies: int) -> int:
    """Copies images under distinct names and patients, keeping the class folders; returns how many there are.

    A few are left out so that they fill whole batches, and a loader that drops the rest delivers as many as one
    that pads.
    """
    originals = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    pairs = [(path, number) for number in range(copies) for path in originals]
    random.Random(0).shuffle(pairs)
    pairs = pairs[: len(pairs) // BATCH * BATCH]
    for path, number in pairs:
        copy = target / "train" / path.parent.name / f"copy{number}-{path.name}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return len(pairs)


def preprocess(folder: Path, name: str) -> None:
    """Writes one of our data sets with all images in train."""
    command = ["preprocess", "--input", str(folder / "images"), "--output", str(folder / name), "--val-fraction", "0"]
    subprocess.run(
        [sys.executable, "-m", "cxr", *command, *DATASETS[name], "--quiet"], check=True, stdout=subprocess.DEVNULL
    )


def child(python: str, *arguments: str, script: str = "epoch.py") -> dict[str, Any]:
    """Runs a script of this folder; the JSON that it printed last, or how it failed."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    process = subprocess.Popen(
        [python, str(HERE / script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {"failed": f"no end after {TIMEOUT_SECONDS} s"}
    if process.returncode:
        lines = errors.strip().splitlines() or [f"exit status {process.returncode}"]
        return {"failed": f"crashed: {lines[-1]}"}
    lines = output.strip().splitlines()
    return json.loads(lines[-1]) if lines else {}


def prepare(folder: Path, names: Sequence[str], peer_python: str) -> None:
    """Writes the forms of the images that the loaders named need, and reads everything once."""
    for dataset in DATASETS:
        if any(READS.get(name) == dataset for name in names):
            print(f"writing {dataset}", file=sys.stderr)
            preprocess(folder, dataset)
    for form in ("array_record", "tar"):
        if any(FOREIGN.get(name) == form for name in names):
            print(f"writing {form}", file=sys.stderr)
            if failed := child(peer_python, f"write-{form}", "--folder", str(folder)).get("failed"):
                print(f"not written: {failed}", file=sys.stderr)
    warm(folder)


def warm(folder: Path) -> None:
    """Reads every file, so that all of them are in the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                while file.read(8 << 20):
                    pass


Runs = dict[str, dict[str, list[dict[str, Any]]]]
"""Results by size and loader, one a round."""


def in_turn(folder: Path, images: int, names: Sequence[str], sizes: Sequence[str], rounds: int, peer: str) -> Runs:
    """Runs every loader once a round and size, so that a machine that slows down slows them all."""
    runs: Runs = {size: {name: [] for name in names if applies(name, size)} for size in sizes}
    for number in range(rounds):
        for size, contenders in runs.items():
            for name, results in contenders.items():
                os.sync()
                python = peer if name in FOREIGN else sys.executable
                result = child(python, name, "--folder", str(folder), "--size", size, "--images", str(images))
                results.append(result)
                said = result.get("failed") or f"{result['rate']:.0f} images/s"
                print(f"round {number + 1}, {size}: {name} {said}", file=sys.stderr)
    return runs


def median(results: list[dict[str, Any]], key: str) -> float | None:
    """Over the rounds that did not fail; None where none has a value."""
    values = [result[key] for result in results if result.get(key) is not None]
    return statistics.median(values) if values else None


def ratio(top: list[dict[str, Any]], bottom: list[dict[str, Any]], key: str) -> float | None:
    """The median of the rounds' ratios."""
    pairs = [(one.get(key), other.get(key)) for one, other in zip(top, bottom, strict=True)]
    values = [one / other for one, other in pairs if one and other]
    return statistics.median(values) if values else None


def remarks(name: str, results: list[dict[str, Any]], images: int, mean: float | None) -> str:
    """What is wrong with a loader's delivery, or how it was delivered."""
    found = {result["failed"] for result in results if "failed" in result}
    for result in results:
        if "failed" in result:
            continue
        count = images * CACHED.get(name, 1)
        if result["images"] != count:
            found.add(f"delivered {result['images']} images of {count}")
        if mean is not None and result["mean"] is not None and abs(result["mean"] - mean) > GREY_LEVELS_APART:
            found.add("other pixels")
        if wrong := [shape for shape in result["shapes"] if not shape.startswith("uint8")]:
            found.add(", ".join(wrong))
    return "; ".join(sorted(found))


def compare(runs: Runs, images: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the two tables: rates, and ratios of ours to the best peer and to the limit."""
    rows, ratios = [], []
    for size, results in runs.items():
        means = [mean for name in results if (mean := median(results[name], "mean")) is not None]
        typical = statistics.median(means) if means else None
        for name, measured in results.items():
            rates = [result["rate"] for result in measured if "rate" in result]
            row = {"size": size, "loader": name, "images_s": median(measured, "rate")}
            row |= {"min": min(rates, default=None), "max": max(rates, default=None)}
            row |= {key: median(measured, key) for key in ("steady", "first", "cpu", "mean")}
            rows.append(row | {"remarks": remarks(name, measured, images, typical)})
        everywhere = runs.get("native", {}) | results  # the limits of full images are measured at native size only
        for name in (name for name in LIMITS if name in results):
            for other in dict.fromkeys([*(best_peer(results, key) for key in RATES), LIMITS[name]]):
                if other in everywhere:
                    row = {"size": size, "of": name, "to": other}
                    ratios.append(row | {key: ratio(results[name], everywhere[other], key) for key in RATES})
    return rows, ratios


def best_peer(results: dict[str, list[dict[str, Any]]], key: str) -> str | None:
    """The name of the fastest peer, None where none has a rate."""
    rates = {name: rate for name in results if name in PEERS and (rate := median(results[name], key))}
    return max(rates, key=lambda name: rates[name], default=None)


def show(rows: list[dict[str, Any]], ratios: list[dict[str, Any]]) -> None:
    """Prints a table of rates for each size, and one of ratios."""
    header = ["", "images/s", "min-max", "steady", "first batch, s", "CPU ms", "mean pixel", ""]
    for size in dict.fromkeys(row["size"] for row in rows):
        table = [
            [
                row["loader"],
                row["images_s"] and f"{row['images_s']:.0f}",
                row["images_s"] and f"{row['min']:.0f}-{row['max']:.0f}",
                row["steady"] and f"{row['steady']:.0f}",
                row["first"] and f"{row['first']:.2f}",
                row["cpu"] and f"{row['cpu'] * 1e3:.2f}",
                row["mean"] and f"{row['mean']:.1f}",
                row["remarks"],
            ]
            for row in rows
            if row["size"] == size
        ]
        print(f"\n{size}")
        print(tabulate(table, header, disable_numparse=True, colalign=("left", *["right"] * 6, "left")))
    if ratios:
        print()
        table = [[row["size"], f"{row['of']} / {row['to']}", row["rate"], row["steady"]] for row in ratios]
        print(tabulate(table, ["size", "ratio (median of rounds)", "whole epoch", "steady"], floatfmt=".2f"))


def memory(source: Path, folder: Path, copies: int, sizes: Sequence[str]) -> list[dict[str, Any]]:
    """Peak memory of an epoch of our stream over the images and over eight times as many, bytes."""
    names = ("ours-rungs", "ours-source")
    rows: dict[tuple[str, str], dict[str, Any]] = {
        (size, name): {"size": size, "loader": name} for size in sizes for name in names if applies(name, size)
    }
    for part, times in PARTS.items():
        images = replicate(source, folder / part / "images", times * copies)
        prepare(folder / part, [name for _, name in rows], sys.executable)
        for (size, name), row in rows.items():
            result = child(sys.executable, name, "--folder", str(folder / part), "--size", size)
            row |= {f"images_{part}": images, f"memory_{part}": result.get("memory")}
            row |= {key: result[key] for key in ("failed",) if key in result}
        shutil.rmtree(folder / part)
    for row in rows.values():
        if "failed" not in row:
            row["ratio"] = row["memory_more"] / row["memory_once"]
    return list(rows.values())


def show_memory(rows: list[dict[str, Any]]) -> None:
    """Prints the peaks and their ratio."""
    table = []
    for row in rows:
        peaks = [row[f"memory_{part}"] and row[f"memory_{part}"] / 2**20 for part in PARTS]
        table.append([row["size"], row["loader"], *peaks, row.get("ratio"), row.get("failed")])
    header = ["size", "", *(f"peak MB, {rows[0][f'images_{part}']} images" for part in PARTS), "ratio", ""]
    print(tabulate(table, header, floatfmt=("", "", ".0f", ".0f", ".2f")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files in class folders")
    parser.add_argument("--copies", type=int, default=9, help="copies of each image (9)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each loader at each size (3)")
    parser.add_argument("--sizes", default="224,512,native", help="pixels, or native (224,512,native)")
    parser.add_argument("--only", help="loaders to run, joined by commas (all)")
    parser.add_argument("--memory", action="store_true", help="measure the peak memory of our stream instead")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of DALI, Grain and WebDataset")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    sizes, names = arguments.sizes.split(","), arguments.only.split(",") if arguments.only else list(LOADERS)
    if unknown := [name for name in names if name not in LOADERS]:
        parser.error(f"--only: no loader {', '.join(unknown)}; there are {', '.join(LOADERS)}")
    if unknown := [size for size in sizes if size != "native" and not size.isdigit()]:
        parser.error(f"--sizes: {', '.join(unknown)}; expected pixels or native")
    if shutil.which(arguments.peer_python) is None:
        parser.error(f"--peer-python: no interpreter {arguments.peer_python}")
    versions = [child(python, "versions") for python in (sys.executable, arguments.peer_python)]
    figures: dict[str, Any] = {"cores": CORES, "machine": platform.machine(), "rounds": arguments.rounds}
    figures |= {"versions": versions[0], "peer_versions": versions[1]}
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as name:
        folder = Path(name)
        if arguments.memory:
            figures["memory"] = memory(arguments.images, folder, arguments.copies, sizes)
            show_memory(figures["memory"])
        else:
            images = replicate(arguments.images, folder / "images", arguments.copies)
            prepare(folder, names, arguments.peer_python)
            runs = in_turn(folder, images, names, sizes, arguments.rounds, arguments.peer_python)
            rows, ratios = compare(runs, images)
            print(f"{images} images, {CORES} cores, {platform.machine()}, medians of {arguments.rounds} rounds")
            show(rows, ratios)
            figures |= {"images": images, "rows": rows, "ratios": ratios, "runs": runs}
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""How fast our stream is, beside other loaders that have the same raw images in their own formats.

    python benchmarks/equal_footing.py --images DIR [--count 1481] [--rounds 5] [--peer-python PYTHON]

`benchmarks/stream.py` gives the other loaders the full-resolution JPEG files; here all have what our rung has. The
images of DIR, which holds class folders, are brought to 256 x 256 pixels, grey (area averages where they shrink,
cubic where they grow), cut to whole batches, and written without compression in the format of each loader. Every
loader makes shuffled uint8 batches of 32 at 224 x 224 out of them, by area averages: ours and TensorFlow's by their
own code, the others by OpenCV's INTER_AREA.

  ours              our stream over a raw rung, cache="none"
  ours-default      our stream with its default cache, which keeps the images in memory after the first epoch
  tfrecord          TFRecordDataset, shuffle, map, batch, prefetch with AUTOTUNE, over our own shards
  grain             Grain over uncompressed ArrayRecord, a thread a core
  grain-processes   the same with a process a core
  memory-map        a NumPy memory map under a PyTorch DataLoader, in one process
  memory-map-processes   the same with a process a core
  mosaic            MosaicML's StreamingDataset under a PyTorch DataLoader, in one process
  mosaic-processes  the same with a process a core
  ffcv              FFCV over raw images, a thread a core; it has no grey ones and stores three equal channels

They take turns within a round, each in a process of its own, with the files in the page cache. `first epoch` is timed
from before the loader is built, imports excluded; `later epochs` are those after it, in the same process. An epoch
more is looked at: images, pixels and shapes. Medians of the rounds are given, and ratios of ours to the best other.

All but ours and tfrecord run under --peer-python, in an environment of their own, for which `requirements.txt` has
grain, array_record, numpy and opencv-python-headless. Besides it needs torch (its CUDA build also runs without a GPU);
mosaicml-streaming, which asks for numpy below 2.2 and also runs with a later one; and ffcv, which is built from source
with a C++ compiler, pkg-config and the Debian packages libopencv-dev and libturbojpeg0-dev. A loader whose package is
missing is listed as not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from equal_peers import LOADERS, STORED, WRITERS
from peers import BATCH
from stream import CORES, child, median, preprocess, ratio, remarks, warm
from tabulate import tabulate

SCRIPT = "equal_peers.py"
HERE = ("ours", "ours-default", "tfrecord")
"""Loaders that run in this environment, over our data set."""
ENDINGS = (".jpg", ".jpeg", ".png")
EPOCHS = {"first": "first epoch", "later": "later epochs"}


def prepare(source: Path, folder: Path, count: int, peer_python: str) -> int:
    """Writes the images in the format of every loader; returns how many there are."""
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in ENDINGS)
    files = sorted(random.Random(0).sample(files, min(count, len(files)) // BATCH * BATCH))
    classes = sorted({path.parent.name for path in files})
    pixels = np.stack([brought_to_size(path) for path in files])
    np.save(folder / "pixels.npy", pixels[..., None])
    np.save(folder / "labels.npy", np.array([classes.index(path.parent.name) for path in files]))
    for path, image in zip(files, pixels, strict=True):
        target = folder / "images" / "train" / path.parent.name / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), image)
    preprocess(folder, "raw")
    for name in WRITERS:
        written = child(peer_python, f"write-{name}", "--folder", str(folder), script=SCRIPT)
        if failed := written.get("failed"):
            print(f"{name} not written: {failed}", file=sys.stderr)
    warm(folder)
    return len(files)


def brought_to_size(path: Path) -> np.ndarray:
    """uint8 [256, 256], grey."""
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    shrinks = min(image.shape) > STORED
    return cv2.resize(image, (STORED, STORED), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def in_turn(
    folder: Path, names: list[str], rounds: int, epochs: int, peer_python: str
) -> dict[str, list[dict[str, Any]]]:
    """Results by loader, one a round: every loader runs once a round, so that a slower machine slows them all."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        for name, results in runs.items():
            os.sync()
            python = sys.executable if name in HERE else peer_python
            result = child(python, name, "--folder", str(folder), "--epochs", str(epochs), script=SCRIPT)
            results.append(result)
            said = result.get("failed") or " ".join(f"{result[key]:.0f}" for key in EPOCHS)
            print(f"round {number + 1}: {name} {said}", file=sys.stderr)
    return runs


def to_rows(runs: dict[str, list[dict[str, Any]]], images: int) -> list[dict[str, Any]]:
    """Medians by loader, with the ratio of ours to it, and what is wrong with its delivery."""
    means = [mean for results in runs.values() if (mean := median(results, "mean")) is not None]
    rows = []
    for name, results in runs.items():
        row: dict[str, Any] = {"loader": name} | {key: median(results, key) for key in (*EPOCHS, "batch", "mean")}
        row |= {f"ratio_{key}": ratio(runs["ours"], results, key) for key in EPOCHS if "ours" in runs}
        for key in EPOCHS:
            rates = [result[key] for result in results if key in result]
            row[f"range_{key}"] = [min(rates), max(rates)] if rates else None
        rows.append(row | {"remarks": remarks(name, results, images, float(np.median(means)) if means else None)})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Prints a table of rates, and how many times as fast ours is."""
    header = ["", *(f"{name}, images/s" for name in EPOCHS.values()), "first batch, s"]
    header += [f"ours is faster, {name}" for name in EPOCHS.values()] + ["mean pixel", ""]
    table = []
    for row in rows:
        rates = [
            row[key] and f"{row[key]:.0f} ({row[f'range_{key}'][0]:.0f}-{row[f'range_{key}'][1]:.0f})" for key in EPOCHS
        ]
        ratios = [(times := row.get(f"ratio_{key}")) and f"{times:.2f}" for key in EPOCHS]
        seconds, mean = row["batch"] and f"{row['batch']:.3f}", row["mean"] and f"{row['mean']:.1f}"
        table.append([row["loader"], *rates, seconds, *ratios, mean, row["remarks"]])
    print(tabulate(table, header, disable_numparse=True, colalign=("left", *["right"] * 6, "left")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of images in class folders")
    parser.add_argument("--count", type=int, default=1481, help="images to take, cut to whole batches (1481)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each loader (5)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs that are timed after the first (4)")
    parser.add_argument("--only", help="loaders to run, joined by commas (all)")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of the other loaders (this one)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(LOADERS)
    if unknown := [name for name in names if name not in LOADERS]:
        parser.error(f"--only: no loader {', '.join(unknown)}; there are {', '.join(LOADERS)}")
    figures: dict[str, Any] = {"cores": CORES, "machine": platform.machine(), "rounds": arguments.rounds}
    for key, python in (("versions", sys.executable), ("peer_versions", arguments.peer_python)):
        figures[key] = child(python, "versions", script=SCRIPT)
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as name:
        images = prepare(arguments.images, Path(name), arguments.count, arguments.peer_python)
        runs = in_turn(Path(name), names, arguments.rounds, arguments.epochs, arguments.peer_python)
    rows = to_rows(runs, images)
    print(f"{images} images, {CORES} cores, {platform.machine()}, medians of {arguments.rounds} rounds")
    show(rows)
    if arguments.json:
        figures |= {"images": images, "rows": rows, "runs": runs}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

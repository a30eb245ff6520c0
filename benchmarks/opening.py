"""How long it takes to open a data set: microseconds a record until a first batch could be read, and until it was.

    python benchmarks/opening.py [--records 10000,100000] [--rounds 5] [--json FILE]

`cxr preprocess` writes a data set of a few thousand images of 8 x 8 pixels, raw. Larger ones are that one with its
files copied under further shard numbers, each with all that lies beside it, and the counts in the manifest
multiplied: they are read as any other data set, and their records come in as many shards of the same length. (Their
images are the same ones again, so `cxr verify` would object.) Every opening is in a process of its own, imports
excluded, with the files in the page cache; sizes take turns within a round.

  opening      `open_dataset` and `steps_per_epoch`: the manifest, the index, the plan
  first batch  from there: the stream is built and gives a batch
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from stream import CORES, child, preprocess, warm
from tabulate import tabulate

RECORDS_MADE = 10_000
"""Records that `cxr preprocess` writes, into 16 shards, and multiples of which are made."""
NUMBERED = re.compile(r"(.+)-([0-9]{5})-of-[0-9]{5}(.*)")
"""Shards, and files that lie beside them."""
SIDE = 8
"""Of the images, pixels."""
OPTIONS: dict[str, Any] = {"image_size": SIDE, "training": True, "seed": 0, "cache": "none"}


def make(folder: Path, records: int) -> None:
    """Writes the data set that the others are multiples of, below `folder`, as `raw`."""
    levels = np.random.default_rng(0).integers(0, 256, (records, SIDE, SIDE), np.uint8)
    for number, image in enumerate(levels):
        path = folder / "images" / "train" / ("NORMAL", "PNEUMONIA")[number % 2] / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
    preprocess(folder, "raw")


def multiply(source: Path, target: Path, times: int) -> None:
    """A data set of so many times the records of `source`, see above."""
    manifest = json.loads((source / "manifest.json").read_text())
    (rung,) = manifest["rungs"].values()
    before = {split: len(shards) for split, shards in rung["shards"].items()}
    (target / "full").mkdir(parents=True)
    for split, count in before.items():
        for path in (source / "full").glob(f"*-{split}.*-of-{count:05d}*"):
            start, index, ending = NUMBERED.fullmatch(path.name).groups()
            for copy in range(times):
                name = f"{start}-{copy * count + int(index):05d}-of-{times * count:05d}{ending}"
                shutil.copyfile(path, target / "full" / name)
        rung["shards"][split] *= times
        numbers = manifest["splits"][split]
        numbers["images"] *= times
        numbers["labels"] = {label: images * times for label, images in numbers["labels"].items()}
    manifest["sizes"]["counts"] = [[*cell, count * times] for *cell, count in manifest["sizes"]["counts"]]
    manifest["sizes"]["pixels"] *= times
    (target / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def opened(root: Path) -> dict[str, Any]:
    """Opens a data set and reads a batch; seconds."""
    import tfrecords.streaming.loader
    import tfrecords.streaming.stream  # noqa: F401
    from tfrecords import open_dataset

    began = time.perf_counter()
    data = open_dataset(root)
    steps = data.steps_per_epoch("train", **OPTIONS)
    ready = time.perf_counter()
    next(data.stream("train", **OPTIONS).as_numpy_iterator())
    return {"steps": steps, "opening": ready - began, "batch": time.perf_counter() - ready}


def measure(folder: Path, times: list[int], rounds: int) -> list[dict[str, Any]]:
    """Medians over the rounds, by size."""
    runs: dict[int, list[dict[str, Any]]] = {number: [] for number in times}
    for _ in range(rounds):
        for number, results in runs.items():
            results.append(child(sys.executable, "--open", str(folder / str(number)), script="opening.py"))
            if failed := results[-1].get("failed"):
                raise SystemExit(failed)
    rows = []
    for number, results in runs.items():
        records = RECORDS_MADE * number
        row = {key: statistics.median(result[key] for result in results) for key in ("opening", "batch")}
        shards = len(
            json.loads((folder / str(number) / "manifest.json").read_text())["rungs"]["full"]["shards"]["train"]
        )
        rows.append({"records": records, "shards": shards} | row | {"microseconds": row["opening"] / records * 1e6})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", default="10000,100000", help=f"multiples of {RECORDS_MADE} (10000,100000)")
    parser.add_argument("--rounds", type=int, default=5, help="openings of each (5)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)  # what a child process is told
    arguments = parser.parse_args()
    if arguments.open:
        print(json.dumps(opened(arguments.open)))
        return 0
    times = [int(records) // RECORDS_MADE for records in arguments.records.split(",")]
    if [number * RECORDS_MADE for number in times] != [int(records) for records in arguments.records.split(",")]:
        parser.error(f"--records: expected multiples of {RECORDS_MADE}")
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as name:
        folder = Path(name)
        make(folder, RECORDS_MADE)
        for number in times:
            multiply(folder / "raw", folder / str(number), number)
        warm(folder)
        os.sync()
        rows = measure(folder, times, arguments.rounds)
    print(f"{CORES} cores, {platform.machine()}, medians of {arguments.rounds} openings")
    print(
        tabulate(
            [[row["records"], row["shards"], row["opening"], row["microseconds"], row["batch"]] for row in rows],
            ["records", "shards", "opening, s", "microseconds a record", "first batch, s more"],
            floatfmt=("", "", ".3f", ".2f", ".3f"),
        )
    )
    if arguments.json:
        figures = {"cores": CORES, "machine": platform.machine(), "rounds": arguments.rounds, "rows": rows}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

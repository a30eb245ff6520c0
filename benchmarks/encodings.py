"""What each `--encoding` costs and gains: size, time to write, time to stream. The ground of the default.

    python benchmarks/encodings.py --images DIR [--rounds 3]

DIR holds class folders (phantoms without it). Each encoding is written by `cxr preprocess` with a 512 rung,
then read on all cores as the stream reads it: every record of train read, checked and decoded, nothing else. The
encodings take turns within a round, and medians of the rounds are given.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate

from cxr.machine import keep_tensorflow_small, usable_cores
from tfrecords.bench import measure
from tfrecords.format.manifest import read_manifest

STREAM_SECONDS = 3.0


def decoded(root: Path, rung: str) -> float:
    """images/s of reading, checking and decoding the training split on all cores, from the page cache."""
    found = measure(root, "train", seconds=STREAM_SECONDS, image_size=224, rung=rung)
    return next(stage.images_s for stage in found.stages if stage.name == "decode")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of images in class folders (phantoms)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    keep_tensorflow_small()
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as name:
        folder = Path(name)
        source = arguments.images
        if source is None:
            source = folder / "phantoms"
            command = [sys.executable, "-m", "cxr", "phantom", "--to", str(source), "--patients", "120"]
            subprocess.run(command, check=True)
        encodings = ("source", "png", "raw")
        for encoding in encodings:
            command = ["preprocess", "--input", str(source), "--output", str(folder / encoding), "--encoding", encoding]
            subprocess.run([sys.executable, "-m", "cxr", *command, "--sizes", "512"], check=True, capture_output=True)
        rates: dict[str, list[float]] = {encoding: [] for encoding in (*encodings, "512 rung")}
        for _ in range(arguments.rounds):
            for encoding in encodings:
                rates[encoding].append(decoded(folder / encoding, "full"))
            rates["512 rung"].append(decoded(folder / "source", "512"))
        rows = []
        for encoding in (*encodings, "512 rung"):
            root, rung = (folder / "source", "512") if encoding == "512 rung" else (folder / encoding, "full")
            shards = [shard for shards in read_manifest(root).rungs[rung].shards.values() for shard in shards]
            size = sum(shard.bytes for shard in shards) / sum(shard.records for shard in shards)
            rows.append([encoding, size / 1e3, statistics.median(rates[encoding])])
    print(tabulate(rows, ["encoding", "KB an image", "decoded images/s"], floatfmt=".0f"))
    if arguments.json:
        figures = [dict(zip(("encoding", "kb_an_image", "images_s"), row, strict=True)) for row in rows]
        arguments.json.write_text(
            json.dumps({"cores": usable_cores(), "rows": figures, "runs": rates}, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

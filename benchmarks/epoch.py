"""One epoch of one loader in a process of its own: what `stream.py` starts for each measurement.

    python benchmarks/epoch.py NAME --folder FOLDER --size 224|512|native --images N

Prints one line of JSON: rates, peak memory, and what was delivered, so that a loader which is fast because it
delivers something else shows. Ours and the limits are here, the other loaders in `peers.py`. NAME may also be
`write-array_record` or `write-tar`, which write those peers' form of the images, or `versions`.
"""

from __future__ import annotations

import argparse
import bisect
import importlib.metadata
import json
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import peers
from peers import BATCH, CORES, Delivery, Epoch, Loader, Unsupported

CACHED = {"ours-cached": 3, "limit-memory": 3}
"""Loaders that are measured over the epochs after the first, and how many epochs they run."""
PACKAGES = (
    *("tensorflow", "keras", "tensorflow-datasets", "nvidia-dali-cuda120", "grain", "array_record", "webdataset"),
    *("opencv-python-headless", "simplejpeg", "pillow", "numpy"),
)


def rung_for(folder: Path, size: int | None) -> str:
    """The folder of the smallest rung that is large enough, by name."""
    rungs = [int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdigit()]
    return str(min((rung for rung in rungs if size is not None and rung >= size), default="full"))


def ours(variant: str, **options: Any) -> Loader:
    """Our stream over one way of storing the images."""

    def loader(folder: Path, size: int | None) -> Epoch:
        import tfrecords.streaming.stream  # noqa: F401
        from tfrecords import open_dataset

        def epoch() -> Iterator[Delivery]:
            stream = open_dataset(folder / variant).stream(
                "train", image_size=size, batch_size=BATCH, training=True, seed=0, **options
            )
            for images, _ in stream.as_numpy_iterator():
                yield images if size is not None else unpadded(**images)

        return epoch

    return loader


def unpadded(image: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """Views of the images of a padded batch, found without reading the masks whole."""
    views = []
    for pixels, inside in zip(image, mask, strict=True):
        height, width = inside.shape[:2]
        height -= bisect.bisect_left(inside[::-1, 0, 0], True)  # padding is below and to the right
        width -= bisect.bisect_left(inside[0, ::-1, 0], True)
        views.append(pixels[:height, :width])
    return views


def limit_decode(folder: Path, size: int | None) -> Epoch:
    """libjpeg-turbo on all cores and nothing else: files in memory, pixels into one buffer a thread."""
    import simplejpeg

    files = [path.read_bytes() for path in peers.image_files(folder)]
    largest = max(height * width for height, width, *_ in map(simplejpeg.decode_jpeg_header, files))

    def epoch() -> Iterator[Delivery]:
        waiting = iter(files)

        def decode(buffer: bytearray) -> int:
            return sum(simplejpeg.decode_jpeg(data, "GRAY", buffer=buffer) is not None for data in waiting)

        with ThreadPoolExecutor(CORES) as pool:
            yield sum(pool.map(decode, [bytearray(largest) for _ in range(CORES)]))

    return epoch


def limit_read(variant: str) -> Loader:
    """TFRecordDataset over the shards that our stream reads at this size, the records thrown away."""

    def loader(folder: Path, size: int | None) -> Epoch:
        import tensorflow as tf

        root = folder / variant
        files = sorted(map(str, (root / rung_for(root, size)).glob("*-train.tfrecord-*")))

        def epoch() -> Iterator[Delivery]:
            for _ in tf.data.TFRecordDataset(files, num_parallel_reads=CORES):
                yield 1

        return epoch

    return loader


def limit_memory(folder: Path, size: int | None) -> Epoch:
    """Shuffled batches gathered by tf.data from one uint8 array that lies in memory.

    Slicing the array in order would copy nothing at all, and so measure nothing.
    """
    import cv2
    import simplejpeg
    import tensorflow as tf

    if size is None:
        raise Unsupported("images of different sizes are no array")

    def shrunk(path: Path) -> np.ndarray:
        image = simplejpeg.decode_jpeg(path.read_bytes(), "GRAY")
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)[..., None]

    with ThreadPoolExecutor(CORES) as pool:
        images = tf.constant(np.stack(list(pool.map(shrunk, peers.image_files(folder)))))
    count = len(images)

    def epoch() -> Iterator[Delivery]:
        indices = tf.data.Dataset.range(count).shuffle(count, seed=0).batch(BATCH).repeat(CACHED["limit-memory"])
        batches = indices.map(lambda chosen: tf.gather(images, chosen), CORES)
        yield from batches.prefetch(2).as_numpy_iterator()

    return epoch


LOADERS: dict[str, Loader] = {
    "ours-rungs": ours("rungs", epochs=1, cache="none"),
    "ours-raw": ours("raw", epochs=1, cache="none"),
    "ours-source": ours("source", epochs=1, cache="none"),
    "ours-cached": ours("rungs", epochs=CACHED["ours-cached"], cache="memory"),
    **peers.PEERS,
    "limit-decode": limit_decode,
    "limit-read-rungs": limit_read("rungs"),
    "limit-read-raw": limit_read("raw"),
    "limit-read-source": limit_read("source"),
    "limit-memory": limit_memory,
}


class Delivered:
    """Counts what a loader delivers, and looks at a few rows of each image."""

    def __init__(self) -> None:
        self.images = 0
        self.means: list[float] = []
        self.shapes: set[str] = set()

    def add(self, delivery: Delivery) -> None:
        if isinstance(delivery, int):
            self.images += delivery
            return
        if isinstance(delivery, np.ndarray) and delivery.ndim == 4:
            self.look(delivery[:, :: max(1, delivery.shape[1] // 16), ::8])
            self.shapes.add(f"{delivery.dtype} {list(delivery.shape)}")
            return
        for image in delivery if isinstance(delivery, list) else [delivery]:
            self.look(image[None, :: max(1, image.shape[0] // 16), ::8])
            self.shapes.add(f"{image.dtype} [h, w, {image.shape[2]}]")

    def look(self, sample: np.ndarray) -> None:
        self.images += len(sample)
        self.means += sample.reshape(len(sample), -1).mean(axis=1).tolist()


def cpu_seconds() -> float:
    """Processor time of this process, and of its workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measure(epoch: Epoch, after: int) -> dict[str, Any]:
    """Builds a loader and iterates it to its end.

    Args:
      epoch: what is timed.
      after: images before which the clock does not run, for the epochs after a first one.

    Returns:
      `rate`, images/s over all; `steady`, images/s after the first delivery; `first`, seconds until it; `cpu`,
      seconds of processor time an image, workers included; what was delivered; and peak memory, bytes.
    """
    delivered = Delivered()
    began, began_at, cpu = time.perf_counter(), 0, cpu_seconds()
    first, first_at = None, 0
    for delivery in epoch():
        delivered.add(delivery)
        if delivered.images <= after:
            began, began_at, cpu = time.perf_counter(), delivered.images, cpu_seconds()
        elif first is None:
            first, first_at = time.perf_counter(), delivered.images
    ended = time.perf_counter()
    first = first or ended
    rest = delivered.images - first_at
    return {
        "images": delivered.images,
        "rate": (delivered.images - began_at) / (ended - began),
        "steady": rest / (ended - first) if rest else None,
        "first": first - began,
        "cpu": (cpu_seconds() - cpu) / (delivered.images - began_at),
        "mean": float(np.mean(delivered.means)) if delivered.means else None,
        "shapes": sorted(delivered.shapes),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    writers = {"write-array_record": peers.write_array_record, "write-tar": peers.write_tar}
    parser.add_argument("name", choices=[*LOADERS, *writers, "versions"])
    parser.add_argument("--folder", type=Path, default=Path(), help="what stream.py prepared")
    parser.add_argument("--size", default="native", help="pixels, or native")
    parser.add_argument("--images", type=int, default=0, help="how many images the data set has")
    arguments = parser.parse_args()
    if arguments.name == "versions":
        installed = {package.metadata["Name"]: package.version for package in importlib.metadata.distributions()}
        print(json.dumps({name: installed[name] for name in PACKAGES if name in installed}))
        return 0
    if arguments.name in writers:
        writers[arguments.name](arguments.folder)
        return 0
    try:
        epoch = LOADERS[arguments.name](arguments.folder, None if arguments.size == "native" else int(arguments.size))
    except ModuleNotFoundError as error:
        print(json.dumps({"failed": f"not installed: {error.name}"}))
        return 0
    except Unsupported as error:
        print(json.dumps({"failed": f"cannot: {error}"}))
        return 0
    print(json.dumps(measure(epoch, arguments.images if arguments.name in CACHED else 0)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The loaders of `equal_footing.py`, each over the same raw images in its own format, and who writes these formats.

    python benchmarks/equal_peers.py NAME --folder FOLDER --epochs N

A loader is a function `loader(folder)`. It imports what it needs, and returns a function that builds the pipeline
and yields epoch after epoch without end: uint8 [32, 224, 224, 1], in a new order each epoch, with the labels read
beside. FOLDER holds `pixels.npy`, uint8 [n, 256, 256, 1], and `labels.npy`, int64 [n]. The script prints one line
of JSON. NAME may also be `write-FORMAT`, which writes a loader's format, or `versions`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from epoch import Delivered, cpu_seconds
from peers import BATCH, CORES, SHARDS, grain_dataset, resized

STORED = 256
SIZE = 224
"""Short side of the images that are stored, and of those that are delivered; both are squares. Pixels."""
PACKAGES = (
    *("tensorflow", "grain", "array_record", "torch", "mosaicml-streaming", "ffcv"),
    *("opencv-python-headless", "numba", "numpy"),
)
Epochs = Callable[[], Iterator[np.ndarray]]
Loader = Callable[[Path], Epochs]


def shrink(image: np.ndarray) -> np.ndarray:
    """An image of the size delivered, by OpenCV's area averages: its fastest filter that does not alias."""
    import cv2

    return cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)[..., None]


def stored_images(folder: Path) -> Iterator[tuple[np.ndarray, int]]:
    """(uint8 [256, 256, 1], label) of every image, in the order stored."""
    yield from zip(np.load(folder / "pixels.npy"), np.load(folder / "labels.npy").tolist(), strict=True)


def ours(**options: Any) -> Loader:
    """Our stream over a raw rung of this size."""

    def loader(folder: Path) -> Epochs:
        import tfrecords.streaming.stream  # noqa: F401
        from tfrecords import open_dataset

        def epochs() -> Iterator[np.ndarray]:
            stream = open_dataset(folder / "raw").stream(
                "train", image_size=SIZE, batch_size=BATCH, training=True, **options
            )
            for images, _ in stream.as_numpy_iterator():
                yield images

        return epochs

    return loader


def tfrecord(folder: Path) -> Epochs:
    """TFRecordDataset, shuffle, parse, resize, batch, prefetch, with AUTOTUNE, over our own shards.

    The buffer of the shuffle holds all records, as TensorFlow's documentation asks for a perfect shuffle.
    """
    import tensorflow as tf

    files = sorted(map(str, (folder / "raw" / "full").glob("*-train.tfrecord-*")))
    count = len(np.load(folder / "labels.npy"))
    features = {"image/value": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def parse(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = tf.io.parse_single_example(data, features)
        return tf.reshape(tf.io.decode_raw(values["image/value"], tf.uint8), (STORED, STORED, 1)), values["label"]

    def epochs() -> Iterator[np.ndarray]:
        records = tf.data.TFRecordDataset(files, num_parallel_reads=tf.data.AUTOTUNE).shuffle(count).repeat()
        yield from resized(records.map(parse, tf.data.AUTOTUNE), SIZE, "area")

    return epochs


def write_array_record(folder: Path) -> None:
    """ArrayRecord shards without compression, one record a group, as random access needs it: a label, then pixels."""
    from array_record.python.array_record_module import ArrayRecordWriter

    (folder / "array_record").mkdir()
    paths = [str(folder / "array_record" / f"{shard:05d}.array_record") for shard in range(SHARDS)]
    writers = [ArrayRecordWriter(path, "group_size:1,uncompressed") for path in paths]
    for number, (image, label) in enumerate(stored_images(folder)):
        writers[number % SHARDS].write(bytes([label]) + image.tobytes())
    for writer in writers:
        writer.close()


def from_record(data: bytes) -> tuple[np.ndarray, int]:
    """(uint8 [224, 224, 1], label) of an ArrayRecord."""
    return shrink(np.frombuffer(data, np.uint8, offset=1).reshape(STORED, STORED)), data[0]


def grain(processes: bool) -> Loader:
    """Grain over ArrayRecord, with a worker process a core, or a thread a core in this process."""

    def loader(folder: Path) -> Epochs:
        import cv2
        import grain

        cv2.setNumThreads(1)  # the images are small, and the workers parallel already

        def epochs() -> Iterator[np.ndarray]:
            batches = grain_dataset(folder, 1 if processes else CORES, SIZE, from_record, epochs=None)
            if processes:
                batches = batches.mp_prefetch(grain.MultiprocessingOptions(CORES, per_worker_buffer_size=4))
            for images, _ in batches:
                yield images

        return epochs

    return loader


def torch_batches(dataset: Any, workers: int, shuffle: bool | None) -> Iterator[np.ndarray]:
    """Epoch after epoch of a PyTorch DataLoader whose workers, if any, live on from epoch to epoch."""
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)  # a batch is too small to share: on a busy machine more threads took ten times as long
    batches = DataLoader(dataset, BATCH, shuffle=shuffle, num_workers=workers, persistent_workers=workers > 0)
    while True:
        for images, _ in batches:
            yield images.numpy()


class Mapped:
    """A memory map of all images as a PyTorch data set."""

    def __init__(self, folder: Path) -> None:
        self.images = np.load(folder / "pixels.npy", mmap_mode="r")
        self.labels = np.load(folder / "labels.npy")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        return shrink(self.images[row]), self.labels[row]


def memory_map(workers: int) -> Loader:
    """A NumPy memory map under a PyTorch DataLoader."""

    def loader(folder: Path) -> Epochs:
        import cv2
        import torch.utils.data  # noqa: F401

        cv2.setNumThreads(1)
        return lambda: torch_batches(Mapped(folder), workers, shuffle=True)

    return loader


def write_mds(folder: Path) -> None:
    """MosaicML's shards, without compression."""
    from streaming import MDSWriter

    columns = {"image": f"ndarray:uint8:{STORED},{STORED},1", "label": "int"}
    with MDSWriter(out=str(folder / "mds"), columns=columns) as writer:
        for image, label in stored_images(folder):
            writer.write({"image": image, "label": label})


def mosaic(workers: int) -> Loader:
    """MosaicML's StreamingDataset over a local folder, under a PyTorch DataLoader; it shuffles by itself."""

    def loader(folder: Path) -> Epochs:
        import cv2
        import streaming
        import torch.utils.data  # noqa: F401

        cv2.setNumThreads(1)

        class Shrunk(streaming.StreamingDataset):
            def __getitem__(self, at: Any) -> tuple[np.ndarray, int]:
                sample = super().__getitem__(at)
                return shrink(sample["image"]), sample["label"]

        def epochs() -> Iterator[np.ndarray]:
            dataset = Shrunk(local=str(folder / "mds"), shuffle=True, batch_size=BATCH)
            yield from torch_batches(dataset, workers, shuffle=None)

        return epochs

    return loader


class Rows:
    """The images as FFCV's writer takes them: it has no grey images, so each is stored three times over."""

    def __init__(self, folder: Path) -> None:
        self.images, self.labels = np.load(folder / "pixels.npy"), np.load(folder / "labels.npy")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        return self.images[row].repeat(3, axis=-1), self.labels[row]


def write_beton(folder: Path) -> None:
    """FFCV's file, of raw images."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    (folder / "beton").mkdir()
    DatasetWriter(str(folder / "beton" / "images.beton"), fields, num_workers=1).from_indexed_dataset(Rows(folder))


def ffcv(folder: Path) -> Epochs:
    """FFCV with a thread a core, in random order; its code is compiled within the first epoch."""
    from ffcv.fields.decoders import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    def epochs() -> Iterator[np.ndarray]:
        batches = Loader(
            str(folder / "beton" / "images.beton"),
            batch_size=BATCH,
            num_workers=CORES,
            order=OrderOption.RANDOM,
            os_cache=True,
            pipelines={"image": [CenterCropRGBImageDecoder((SIZE, SIZE), ratio=1), ToTensor()]},
        )
        while True:
            for images, _ in batches:
                yield np.ascontiguousarray(images.numpy()[..., :1])

    return epochs


LOADERS: dict[str, Loader] = {
    "ours": ours(cache="none"),
    "ours-default": ours(),
    "tfrecord": tfrecord,
    "grain": grain(processes=False),
    "grain-processes": grain(processes=True),
    "memory-map": memory_map(0),
    "memory-map-processes": memory_map(CORES),
    "mosaic": mosaic(0),
    "mosaic-processes": mosaic(CORES),
    "ffcv": ffcv,
}
WRITERS = {"array_record": write_array_record, "mds": write_mds, "beton": write_beton}


def measure(epochs: Epochs, images: int, later: int) -> dict[str, Any]:
    """Builds a loader and takes a first epoch, `later` more, and then one that is looked at and not timed.

    Returns:
      `first`, images/s of the first epoch, start-up included, and `later`, of those after it; `batch`, seconds to the
      first batch; `cpu`, seconds of processor time an image of the later epochs, without worker processes, which have
      not ended; and what was delivered.
    """
    delivered, done = Delivered(), 0
    ends, cpu = [time.perf_counter()], [cpu_seconds()]
    first_batch = None
    for batch in epochs():
        first_batch = first_batch or time.perf_counter()
        done += len(batch)
        if len(ends) == later + 2:
            delivered.add(batch)
        if done == images:
            ends.append(time.perf_counter())
            cpu.append(cpu_seconds())
            done = 0
        if len(ends) == later + 3:
            break
    return {
        "images": delivered.images,
        "first": images / (ends[1] - ends[0]),
        "later": images * later / (ends[later + 1] - ends[1]),
        "batch": first_batch - ends[0],
        "cpu": (cpu[later + 1] - cpu[1]) / (images * later),
        "mean": float(np.mean(delivered.means)),
        "shapes": sorted(delivered.shapes),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*LOADERS, *(f"write-{name}" for name in WRITERS), "versions"])
    parser.add_argument("--folder", type=Path, default=Path(), help="what equal_footing.py prepared")
    parser.add_argument("--epochs", type=int, default=4, help="later epochs that are timed")
    arguments = parser.parse_args()
    if arguments.name == "versions":
        installed = {package.metadata["Name"]: package.version for package in importlib.metadata.distributions()}
        print(json.dumps({name: installed[name] for name in PACKAGES if name in installed}))
        return 0
    try:
        if arguments.name.startswith("write-"):
            WRITERS[arguments.name.removeprefix("write-")](arguments.folder)
            return 0
        epochs = LOADERS[arguments.name](arguments.folder)
    except ModuleNotFoundError as error:
        print(json.dumps({"failed": f"not installed: {error.name}"}))
        return 0
    images = len(np.load(arguments.folder / "labels.npy"))
    print(json.dumps(measure(epochs, images, arguments.epochs)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

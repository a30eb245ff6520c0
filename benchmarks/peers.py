"""Other loaders, each as its own documentation sets it up, over the same JPEG files. See `stream.py`.

A loader is a function `loader(folder, size)`. It imports what it needs, reports a peer that is not installed
by ImportError, and returns a function that builds the pipeline and iterates one epoch; only that is timed.
The epoch yields uint8 [32, size, size, 1]; at native size (`size` None) single images [height, width, 1], or
lists of them. No peer is made to shuffle where a buffer would cost it time, and each decodes and resizes by
its own defaults, so the pixels differ slightly.
"""

from __future__ import annotations

import io
import multiprocessing.util
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32
CORES = len(os.sched_getaffinity(0))
SHARDS = 4 * CORES

Delivery = np.ndarray | list[np.ndarray] | int
"""A batch, an image, a list of images; or how many images were done without delivering them."""
Epoch = Callable[[], Iterator[Delivery]]
Loader = Callable[[Path, int | None], Epoch]


class Unsupported(Exception):
    """The loader cannot do this at all; the message says why."""


def image_files(folder: Path) -> list[Path]:
    """The images that all loaders see, in one fixed order."""
    return sorted((folder / "images" / "train").glob("*/*"))


def write_tar(folder: Path) -> None:
    """WebDataset's form of the images: tar shards of `key.jpg` and `key.cls`."""
    (folder / "tar").mkdir()
    files = image_files(folder)
    classes = sorted({path.parent.name for path in files})
    for shard in range(SHARDS):
        with tarfile.open(folder / "tar" / f"{shard:05d}.tar", "w") as archive:
            for number in range(shard, len(files), SHARDS):
                label = str(classes.index(files[number].parent.name)).encode()
                for ending, data in (("jpg", files[number].read_bytes()), ("cls", label)):
                    member = tarfile.TarInfo(f"{number:06d}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


def write_array_record(folder: Path) -> None:
    """Grain's form of the images: ArrayRecord shards, one record a group, as random access needs it.

    The files are not compressed once more: that spares the reader a step.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    (folder / "array_record").mkdir()
    files = image_files(folder)
    for shard in range(SHARDS):
        path = folder / "array_record" / f"{shard:05d}.array_record"
        writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for file in files[shard::SHARDS]:
            writer.write(file.read_bytes())
        writer.close()


def keras_directory(folder: Path, size: int | None) -> Epoch:
    """`image_dataset_from_directory`, which decodes with AUTOTUNE by itself; its float32 cast to uint8."""
    import keras
    import tensorflow as tf

    if size is None:
        raise Unsupported("always resizes")

    def epoch() -> Iterator[Delivery]:
        dataset = keras.utils.image_dataset_from_directory(
            folder / "images" / "train",
            color_mode="grayscale",
            image_size=(size, size),
            batch_size=BATCH,
            verbose=False,
        )
        dataset = dataset.map(lambda image, label: (tf.cast(image, tf.uint8), label), tf.data.AUTOTUNE)
        for images, _ in dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
            yield images

    return epoch


def keras_generator(folder: Path, size: int | None) -> Epoch:
    """`ImageDataGenerator.flow_from_directory`, run by the threads that `model.fit` would run it with."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator
    from keras.src.trainers.data_adapters.py_dataset_adapter import OrderedEnqueuer

    if size is None:
        raise Unsupported("always resizes")

    def epoch() -> Iterator[Delivery]:
        batches = ImageDataGenerator(dtype="uint8").flow_from_directory(
            folder / "images" / "train", target_size=(size, size), color_mode="grayscale", batch_size=BATCH
        )
        queue = OrderedEnqueuer(batches, workers=CORES)
        queue.start()
        delivered = queue.get()
        for _ in range(len(batches)):
            yield next(delivered)[0]
        queue.stop()

    return epoch


def resized(dataset: Any, size: int | None, method: str = "bilinear") -> Iterator[Delivery]:
    """The end of a tutorial's tf.data pipeline of (image, label): resize, batch, prefetch."""
    import tensorflow as tf

    def resize(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(tf.image.resize(image, (size, size), method), tf.uint8), label

    if size is not None:
        dataset = dataset.map(resize, tf.data.AUTOTUNE).batch(BATCH)
    for images, _ in dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
        yield images


def tfrecord(folder: Path, size: int | None) -> Epoch:
    """TFRecordDataset, parse, decode, resize, batch, all with AUTOTUNE, over our `full` shards of source files."""
    import tensorflow as tf

    def parse(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
        values = tf.io.parse_single_example(data, features)
        return tf.io.decode_jpeg(values["image"], channels=1), values["label"]

    def epoch() -> Iterator[Delivery]:
        files = tf.data.Dataset.list_files(str(folder / "source" / "full" / "*-train.tfrecord-*"))
        records = tf.data.TFRecordDataset(files, num_parallel_reads=tf.data.AUTOTUNE)
        yield from resized(records.map(parse, tf.data.AUTOTUNE), size)

    return epoch


def tfds(folder: Path, size: int | None) -> Epoch:
    """`tfds.builder_from_directory` over our own `full` directory, which decodes with AUTOTUNE by itself.

    It would keep small sets decoded in memory, which within one epoch only costs time: it is told not to.
    """
    import tensorflow  # noqa: F401 (TFDS imports it late)
    import tensorflow_datasets

    def epoch() -> Iterator[Delivery]:
        builder = tensorflow_datasets.builder_from_directory(folder / "source" / "full")
        reading = tensorflow_datasets.ReadConfig(try_autocache=False)
        yield from resized(builder.as_dataset(split="train", as_supervised=True, read_config=reading), size)

    return epoch


def dali(antialias: bool) -> Loader:
    """DALI without a GPU: its own file reader, decoder and linear resize, one thread a core.

    By default it resizes antialiased, at several times the cost.
    """

    def loader(folder: Path, size: int | None) -> Epoch:
        from nvidia.dali import fn, pipeline_def, types

        @pipeline_def(batch_size=BATCH, num_threads=CORES, device_id=None, exec_dynamic=True)
        def pipeline() -> tuple[Any, Any]:
            files, labels = fn.readers.file(file_root=str(folder / "images" / "train"), name="reader")
            images = fn.decoders.image(files, device="cpu", output_type=types.GRAY)
            return images if size is None else fn.resize(images, size=(size, size), antialias=antialias), labels

        def epoch() -> Iterator[Delivery]:
            pipe = pipeline()
            pipe.build()
            remaining = pipe.reader_meta("reader")["epoch_size"]
            while remaining > 0:  # the reader goes on after an epoch; what is more than one is cut off
                images, _ = pipe.run()
                count = min(BATCH, remaining)
                if size is None:
                    yield [np.asarray(images[number]) for number in range(count)]
                else:
                    yield images.as_array()[:count]
                remaining -= count

        return epoch

    return loader


class Decode:
    """JPEG bytes to uint8 [height, width, 1], squashed where a size is given; it can be sent to a worker.

    `area` is OpenCV's decoder and INTER_AREA; `linear` its INTER_LINEAR, which is 10 times as fast and aliases,
    as tf.image.resize does by default; `scaled` decodes to the smallest size that libjpeg-turbo can scale to
    within the transform and that is large enough, then INTER_AREA.
    """

    def __init__(self, size: int | None, how: str = "area") -> None:
        self.size = size
        self.how = how

    def __call__(self, data: bytes) -> np.ndarray:
        import cv2

        cv2.setNumThreads(1)  # the workers are parallel already
        if self.how == "scaled":
            import simplejpeg

            image = simplejpeg.decode_jpeg(data, "GRAY", min_height=self.size or 0, min_width=self.size or 0)
        else:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        if self.size is not None:
            filtering = cv2.INTER_LINEAR if self.how == "linear" else cv2.INTER_AREA
            image = cv2.resize(image, (self.size, self.size), interpolation=filtering)
        return image.reshape(*image.shape[:2], 1)


def grain_dataset(
    folder: Path, threads: int, size: int | None, decode: Callable[[bytes], Any], epochs: int | None = 1
) -> Any:
    """Shuffled, decoded and batched (not at native size), read and mapped by so many threads a process.

    `epochs` None repeats without end, in a new order each time.
    """
    import grain

    source = grain.sources.ArrayRecordDataSource(sorted(map(str, (folder / "array_record").iterdir())))
    images = grain.MapDataset.source(source).shuffle(seed=0).repeat(epochs).map(decode)
    ahead = 16 * threads  # images
    if size is not None:
        images, ahead = images.batch(BATCH), 2 * threads  # batches
    return images.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead))


def grain_processes(folder: Path, size: int | None) -> Epoch:
    """Grain over ArrayRecord with one worker process a core."""
    import cv2  # noqa: F401
    import grain

    def epoch() -> Iterator[Delivery]:
        dataset = grain_dataset(folder, 1, size, Decode(size))
        batches = iter(dataset.mp_prefetch(grain.MultiprocessingOptions(CORES, per_worker_buffer_size=4)))
        yield from batches
        batches.close()

    return epoch


def grain_threads(how: str) -> Loader:
    """Grain over ArrayRecord without worker processes: one thread a core, which the decoders let run in parallel."""

    def loader(folder: Path, size: int | None) -> Epoch:
        import cv2  # noqa: F401
        import grain  # noqa: F401
        import simplejpeg  # noqa: F401

        def epoch() -> Iterator[Delivery]:
            yield from grain_dataset(folder, CORES, size, Decode(size, how))

        return epoch

    return loader


class Flushed:
    """A worker's share of a WebDataset, whose last messages are sent before the worker exits.

    MultiLoader's workers exit with messages still queued; large batches and the end of the stream are then
    lost, and the loader waits for ever (webdataset 1.0.2).
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        import zmq

        multiprocessing.util.Finalize(None, zmq.Context.instance().term, exitpriority=0)
        yield from self.dataset


def webdataset(folder: Path, size: int | None) -> Epoch:
    """WebDataset over tar shards, decoded by OpenCV, in one process a core.

    Without torch its WebLoader does not exist; this is the MultiLoader that it ships for that case.
    """
    import cv2  # noqa: F401
    import webdataset as wds
    from webdataset.multi import MultiLoader

    def epoch() -> Iterator[Delivery]:
        shards = sorted(map(str, (folder / "tar").iterdir()))
        dataset = wds.WebDataset(shards, shardshuffle=False, workersplitter=wds.split_by_worker)
        dataset = dataset.map_dict(jpg=Decode(size)).to_tuple("jpg", "cls")
        if size is not None:
            dataset = dataset.batched(BATCH)
        for images, _ in MultiLoader(Flushed(dataset), workers=CORES, prefix=str(folder / "socket-")):
            yield images

    return epoch


PEERS: dict[str, Loader] = {
    "keras": keras_directory,
    "generator": keras_generator,
    "tfrecord": tfrecord,
    "tfds": tfds,
    "dali": dali(antialias=True),
    "dali-linear": dali(antialias=False),
    "grain": grain_processes,
    "grain-threads": grain_threads("area"),
    "grain-linear": grain_threads("linear"),
    "grain-scaled": grain_threads("scaled"),
    "webdataset": webdataset,
}

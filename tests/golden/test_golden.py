"""What must not change while the code does: shards, batches, training and trials, against stored values.

`python tests/golden/test_golden.py --write` computes the stored values anew, with the functions that the tests call.
Do so only for a change that is meant, and say in the commit why.

Some values depend on the processor and on library versions: floating-point sums in another order, and what follows
from them. They are compared exactly only in the environment that they were stored from. Elsewhere a tolerance applies
where one makes sense, and the exact test skips.
"""

from __future__ import annotations

import csv
import functools
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import blake3
import h5py
import numpy as np
import pytest
from PIL import Image

from cxr import cli
from tfrecords import XrayDataset, open_dataset
from tuner.cluster.chief import Chief
from tuner.results import write_search_file
from tuner.search_config import SearchConfig
from tuner.space.space import Space

STORED = Path(__file__).with_name("golden.json")
REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "numba", "opencv-python-headless", "pillow", "simplejpeg",
            "keras-tuner", "scikit-learn", "scipy")  # fmt: skip
TOLERANCE = 1e-3
"""How far the means of batches may lie apart on another processor: relative, or absolute for values below 1."""
BATCHES = 6
"""Batches of a stream that are compared."""

PHANTOMS = ("--patients", "64", "--seed", "3", "--duplicates", "2", "--scale", "0.26")
SETS = {
    "source": ("phantoms", "--encoding", "source", "--sizes", "96,64", "--val-fraction", "0.3", "--shard-mb", "0.5"),
    "raw": ("phantoms", "--encoding", "raw", "--sizes", "96,64", "--rung-encoding", "png", "--val-fraction", "0.3",
            "--labels", "cause", "--duplicates", "drop", "--shard-mb", "2", "--seed", "5"),
    "png": ("table/table.csv", "--encoding", "png", "--sizes", "32", "--shard-mb", "0.05", "--missing", "negative"),
}  # fmt: skip
"""Data set: what it is made from, and the options of `cxr preprocess`."""
KERMANY = {
    encoding: ("--encoding", encoding, "--sizes", "512,224", "--shard-mb", "16") for encoding in ("source", "raw")
}

RECIPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "training": ("source", "train", {"training": True, "image_size": 64, "batch_size": 16}),
    "later epochs": ("source", "train", {"training": True, "image_size": 64, "first_step": 12, "seed": 7}),
    "from memory": ("source", "train", {"training": True, "image_size": 48, "epochs": 2, "cache": "memory",
                                        "metadata": False}),
    "balanced": ("source", "train", {"training": True, "image_size": 48, "batch_size": 12, "balanced": True}),
    "weighted": ("source", "train", {"training": True, "image_size": 48, "batch_size": 12, "sample_weights": True}),
    "no remainder": ("raw", "train", {"training": True, "image_size": 32, "batch_size": 24, "epochs": 2,
                                      "drop_remainder": True}),
    "shuffled in parts": ("raw", "train", {"training": True, "image_size": 32, "batch_size": 16, "shuffle_mb": 1,
                                           "rung": "full"}),
    "three classes balanced": ("raw", "train", {"training": True, "image_size": 64, "balanced": True, "seed": 2}),
    "training at native size": ("source", "train", {"training": True, "image_size": None, "batch_size": 8}),
    "training on 16 bits": ("png", "train", {"training": True, "image_size": 40, "batch_size": 8}),
    "squash": ("source", "train", {"image_size": (80, 96), "batch_size": 16}),
    "pad": ("source", "train", {"image_size": (80, 96), "batch_size": 16, "fit": "pad"}),
    "crop": ("source", "train", {"image_size": (80, 96), "batch_size": 16, "fit": "crop"}),
    "enlarged": ("source", "val", {"image_size": 300, "batch_size": 8, "rung": "64"}),
    "grey": ("source", "test", {"image_size": 64, "batch_size": 8, "channels": 1}),
    "colour": ("raw", "test", {"image_size": 96, "batch_size": 8, "channels": 3, "fit": "pad"}),
    "three epochs": ("raw", "test", {"image_size": 64, "batch_size": 5, "epochs": 3, "first_step": 2}),
    "last steps": ("raw", "val", {"image_size": 64, "batch_size": 4, "first_step": 3}),
    "native size": ("raw", "val", {"image_size": None, "batch_size": 4}),
    "native size of a rung": ("source", "val", {"image_size": None, "rung": "64", "batch_size": 4, "channels": 1}),
    "16 bits, several labels": ("png", "val", {"image_size": None, "batch_size": 4, "metadata": False}),
    "16 bits enlarged": ("png", "val", {"image_size": 48, "batch_size": 4, "fit": "pad", "rung": "32"}),
}  # fmt: skip
"""Recipe: data set, split, and the options of `XrayDataset.stream`, with `metadata` unless it says otherwise."""

TRAINING = ("--model", "cnn3", "--model-options", "filters=4,8", "dense=8", "--image-size", "32", "--batch-size", "8",
            "--epochs", "3", "--learning-rate", "0.003", "--augment", "light", "--mixed-precision", "float32",
            "--xla", "off", "--seed", "4", "--monitor", "val_loss", "--quiet")  # fmt: skip
COLUMNS = {"losses": "loss$", "measures": "(auc|accuracy)$"}
"""Parts of a history, by the columns in them. The others tell how long something took."""
LEARNED = {"losses": 5e-3, "predictions": 5e-3, "measures": 0.05}
"""Part of a training: how far it may lie apart on another processor. Measures change in steps of an image or a pair."""
SEARCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "hyperband": ({"epochs": 9, "factor": 3, "max_trials": None}, {"model": "cnn-separable"}),
    "bayesian": ({"epochs": 3, "max_trials": 6}, {
        "model": "mlp", "image_size": 64, "augment": "none", "equalize": False, "optimizer": "adam", "ema": 0,
        "schedule": "constant", "class_weights": "none", "label_smoothing": 0, "normalize": "dataset", "layers": 1,
        "activation": "relu", "units": 64,
    }),
    "random": ({"epochs": 3, "max_trials": 12}, {}),
    "grid": ({"epochs": 3, "max_trials": 24}, {"model": "cnn3", "image_size": 64}),
}  # fmt: skip
"""Oracle: settings of its search, and what is the same in all trials of the compact space.
The Bayesian one is slow, so most of it is fixed."""


# ---- what is computed


def environment() -> dict[str, Any]:
    """What the last bits of a floating-point result depend on."""
    versions = {item.metadata["Name"].lower(): item.version for item in metadata.distributions()}
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": digest(" ".join(sorted(flags[1].split())) if flags else "unknown"),
        "cores": len(os.sched_getaffinity(0)),
        "packages": {name: versions[name] for name in PACKAGES if name in versions},
    }


def digest(*parts: str | bytes) -> str:
    """BLAKE3 of some parts and their lengths, 32 hex digits."""
    hasher = blake3.blake3()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest(16)


def run(*arguments: object) -> None:
    """A `cxr` command that must succeed."""
    status = cli.main([str(argument) for argument in arguments])
    assert status == 0, f"cxr {' '.join(map(str, arguments))}: exit status {status}"


def draw_inputs(folder: Path) -> None:
    """Makes `phantoms`, and `table`: images of 16 bits with any number of labels, drawn with whole numbers alone."""
    run("phantom", "--to", folder / "phantoms", *PHANTOMS)
    (folder / "table").mkdir()
    lines = ["path,label,patient,split"]
    for number in range(40):
        rows, columns = np.mgrid[0 : 41 + 3 * (number % 7), 0 : 67 - 5 * (number % 4)]
        pixels = (rows * (977 + 31 * number) + columns * columns * (13 + number) + (rows ^ columns) * 211) % 65536
        Image.fromarray(pixels.astype(np.uint16)).save(folder / "table" / f"{number:02}.png")
        labels = [name for name, every in (("left", 2), ("opacity", 3), ("small", 5)) if number % every == 0]
        lines.append(f"{number:02}.png,{'|'.join(labels)},p{number // 2},{'val' if number // 2 % 4 == 0 else 'train'}")
    (folder / "table" / "table.csv").write_text("\n".join(lines) + "\n")


def freeze_inputs(folder: Path) -> dict[str, str]:
    """A digest of the files that each data set is made from, by folder."""
    found = {}
    for name in ("phantoms", "table"):
        files = (path for path in sorted((folder / name).rglob("[!.]*")) if path.is_file())
        found[name] = digest(*(part for path in files for part in (str(path.relative_to(folder)), path.read_bytes())))
    return found


def preprocess(source: Path, output: Path, *options: str) -> XrayDataset:
    """The data set that a job of one worker writes."""
    workers = ("--direct_num_workers=1", "--direct_running_mode=in_memory")
    run("preprocess", "--input", source, "--output", output, *options, *workers)
    return open_dataset(output)


def freeze_dataset(data: XrayDataset) -> dict[str, Any]:
    """Shards, byte for byte, and what the manifest says of the images; the manifest's own form may change."""
    shards = (path for path in sorted(data.root.rglob("*")) if re.search(r"\.tfrecord-\d+-of-\d+$", path.name))
    return {
        "labels": list(data.labels),
        "splits": {split: {"images": data.images(split), **data.counts(split)} for split in data.splits},
        "pixels": data.manifest.source["pixels"],
        "statistics": [round(data.pixel_mean, 6), round(data.pixel_std, 6)],
        "shards": {str(path.relative_to(data.root)): digest(path.read_bytes()) for path in shards},
    }


def freeze_batches(data: XrayDataset, split: str, options: dict[str, Any]) -> dict[str, Any]:
    """The first batches of a stream: `rows` digests all but the images' pixels, `pixels` those, `mean` sums them up."""
    options = {"metadata": True, **options}
    rows, pixels, means = [], [], []
    for batch in data.stream(split, **options).take(BATCHES).as_numpy_iterator():
        for place, array in leaves(batch):
            rows.append(f"{place} {array.dtype} {array.shape}")
            if place in ("0", "0.image"):
                pixels.append(array.tobytes())
                means.append(round(float(array.mean()), 4))
            else:
                rows += list(array) if array.dtype == object else [array.tobytes()]
    steps = data.steps_per_epoch(split, **options)
    return {"steps": steps, "rows": digest(*rows), "mean": means, "pixels": digest(*pixels)}


def leaves(tree: Any, place: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of an element, each with its place in it."""
    if isinstance(tree, (dict, tuple)):
        for name, part in sorted(tree.items()) if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(part, f"{place}.{name}" if place else str(name))
    else:
        yield place, np.asarray(tree)


def freeze_training(data: XrayDataset, images: Path, folder: Path) -> dict[str, Any]:
    """History, predictions and weights of a short training, without times and without names of layers or files."""
    run("train", "--data", data.root, "--run", folder / "run", *TRAINING)
    run("predict", "--run", folder / "run", images, "--output", folder / "predictions.csv", "--quiet")
    epochs = read_table(folder / "run" / "history.csv")
    history = {
        part: [{name: float(row[name]) for name in row if re.search(columns, name)} for row in epochs]
        for part, columns in COLUMNS.items()
    }
    predictions = {
        str(Path(row["path"]).name): [float(value) for name, value in row.items() if name.startswith("p:")]
        for row in read_table(folder / "predictions.csv")
    }
    arrays: list[str] = []

    def collect(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays.append(digest(str(item.shape), np.asarray(item).tobytes()))

    with h5py.File(folder / "run" / "checkpoints" / "best.weights.h5") as file:
        file.visititems(collect)
    return {**history, "predictions": predictions, "weights": digest(*sorted(arrays))}


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def freeze_trials(oracle: str, folder: Path) -> dict[str, Any]:
    """The configurations that a search tries, in order: what all of them share, and what each has of its own."""
    settings, fixed = SEARCHES[oracle]
    project = folder / oracle
    project.mkdir()
    config = SearchConfig(
        data="data", project=str(project), oracle=oracle, pruner="none", seed=11,
        space=Space.named("compact").fix(fixed), **settings,
    )  # fmt: skip
    write_search_file(project, {"settings": config.to_json(), "data": {}, "state": "running"})
    chief = Chief(config, "d" * 64)
    configs = []
    while (task := chief.next("worker", "process"))["do"] == "run":
        configs.append(json.loads(json.dumps(task["config"])))
        value = score(configs[-1])
        row = {"epoch": 1, config.objective: value}
        chief.end("worker", "process", task["trial"], "completed", score=value, best_epoch=1, rows=[row])
    chief.log.close()
    shared = {name: value for name, value in configs[0].items() if all(name in c and c[name] == value for c in configs)}
    own = [{name: value for name, value in config.items() if name not in shared} for config in configs]
    return {"shared": shared, "trials": own}


def score(config: dict[str, Any]) -> float:
    """A smooth function of a configuration, so that the order of trials does not hang on the last bit of a float."""
    rate = math.log10(config.get("learning_rate", 1e-3))
    return round(0.9 - 0.1 * abs(rate + 2.7) - 0.02 * abs(math.log2(config.get("batch_size", 32)) - 5), 6)


# ---- how it is compared


@functools.cache
def stored() -> dict[str, Any]:
    """The values that were written."""
    return json.loads(STORED.read_text(encoding="utf-8"))


def differences(old: Any, new: Any, tolerance: float = 0.0, place: str = "") -> list[str]:
    """Where two trees of JSON values differ; numbers may by the tolerance."""
    if isinstance(old, dict) and isinstance(new, dict) and list(old) == list(new):
        return [text for name in old for text in differences(old[name], new[name], tolerance, f"{place}/{name}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [text for index, (a, b) in pairs for text in differences(a, b, tolerance, f"{place}/{index}")]
    close = type(old) is type(new) is float and math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance)
    return [] if close or old == new else [f"{place}: stored {old!r}, now {new!r}"]


def check(old: Any, new: Any, tolerance: float = 0.0) -> None:
    """Fails, and says where, unless what was computed is what was stored."""
    found = differences(old, json.loads(json.dumps(new)), tolerance)
    assert not found, "\n".join(["what was frozen has changed:", *found[:20]])


@functools.cache
def elsewhere() -> str:
    """Why results cannot be compared to the last bit; empty where they can."""
    found = differences(stored()["environment"], environment())
    return f"exact results were stored in another environment: {'; '.join(found)}" if found else ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the inputs of all data sets."""
    folder = tmp_path_factory.mktemp("golden")
    draw_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(folder) -> Callable[[str], XrayDataset]:
    """`dataset(name)`: one of `SETS`; skips where another processor drew other inputs."""
    made: dict[str, XrayDataset] = {}
    drawn = freeze_inputs(folder)

    def get(name: str) -> XrayDataset:
        source, *options = SETS[name]
        root = source.split("/")[0]
        if drawn[root] != stored()["inputs"][root] and (reason := elsewhere()):
            pytest.skip(f"other inputs were drawn; {reason}")
        if name not in made:
            made[name] = preprocess(folder / source, folder / name, *options)
        return made[name]

    return get


def test_inputs(folder):
    found = freeze_inputs(folder)
    if found != stored()["inputs"] and (reason := elsewhere()):
        pytest.skip(reason)
    check(stored()["inputs"], found)


@pytest.mark.parametrize("name", SETS)
def test_shards(dataset, name):
    check(stored()["datasets"][name], freeze_dataset(dataset(name)))


@pytest.mark.slow
@pytest.mark.parametrize("encoding", KERMANY)
def test_shards_of_real_images(fullres, tmp_path, encoding):
    check(stored()["kermany"][encoding], freeze_dataset(preprocess(fullres, tmp_path / "data", *KERMANY[encoding])))


@pytest.mark.parametrize("name", RECIPES)
def test_batches(dataset, name):
    source, split, options = RECIPES[name]
    old, new = stored()["batches"][name], freeze_batches(dataset(source), split, options)
    if elsewhere():  # fitting sums in an order that depends on the processor; rows and labels do not
        old, new = ({part: value for part, value in each.items() if part != "pixels"} for each in (old, new))
    check(old, new, TOLERANCE if elsewhere() else 0.0)


@pytest.fixture(scope="module")
def training(dataset, folder) -> dict[str, Any]:
    """What a short training gives."""
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        pytest.skip("the training was stored with TensorFlow")
    return freeze_training(dataset("source"), folder / "phantoms" / "test", folder)


@pytest.mark.parametrize("part", LEARNED)
def test_training(training, part):
    check(stored()["training"][part], training[part], LEARNED[part])


def test_training_to_the_last_bit(training):
    if reason := elsewhere():
        pytest.skip(reason)
    check(stored()["training"], training)


@pytest.mark.parametrize("oracle", SEARCHES)
def test_trials(tmp_path, oracle):
    """A change of the search itself, which is planned, changes these on purpose: then write them anew."""
    if oracle == "bayesian" and (reason := elsewhere()):  # its Gaussian process is fitted with floating-point sums
        pytest.skip(reason)
    check(stored()["trials"][oracle], freeze_trials(oracle, tmp_path), 1e-9)


# ---- how it is stored


def write() -> None:
    """Computes all that is stored; real X-rays that are not there keep what was stored of them."""
    real = Path(os.environ.get("CXR_TEST_DATA", REPOSITORY.parent / "shared" / "data")) / "kermany_fullres"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw_inputs(folder)
        sets = {name: preprocess(folder / source, folder / name, *options) for name, (source, *options) in SETS.items()}
        golden: dict[str, Any] = {
            "environment": environment(),
            "inputs": freeze_inputs(folder),
            "datasets": {name: freeze_dataset(data) for name, data in sets.items()},
            "kermany": stored()["kermany"] if STORED.exists() else {},
            "batches": {name: freeze_batches(sets[source], *how) for name, (source, *how) in RECIPES.items()},
            "training": freeze_training(sets["source"], folder / "phantoms" / "test", folder),
            "trials": {oracle: freeze_trials(oracle, folder) for oracle in SEARCHES},
        }
        for encoding, options in KERMANY.items() if real.is_dir() else ():
            golden["kermany"][encoding] = freeze_dataset(preprocess(real, folder / f"kermany-{encoding}", *options))
    if not real.is_dir():
        print(f"{real} is not there; its values are kept as they were", file=sys.stderr)
    STORED.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        raise SystemExit(f"usage: python {sys.argv[0]} --write")
    write()

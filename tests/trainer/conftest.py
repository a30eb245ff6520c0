"""Small data sets, made of phantoms by the Beam job, and a run trained on one."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

from beam_jobs.job import preprocess
from beam_jobs.preprocess_config import PreprocessConfig
from tfrecords.dataset import XrayDataset, open_dataset
from trainer.facts import DataFacts
from trainer.run import Run, create_run, open_run
from trainer.train_config import TrainConfig
from trainer.training.loop import train

ONE_WORKER = ["--direct_num_workers=1", "--direct_running_mode=in_memory"]
SMALL = {
    "model": "cnn3", "model_options": {"filters": [4, 8], "dense": [24]}, "image_size": 32, "batch_size": 8,
    "epochs": 2, "learning_rate": 0.005,
}  # fmt: skip
"""A model that is quick to build, to compile and to train."""


def prepare(folder: Path, **options) -> XrayDataset:
    """The data set of some images, with a rung of 64 pixels."""
    preprocess(PreprocessConfig(output=str(folder / "data"), sizes=(64,), **options), ONE_WORKER, True)
    return open_dataset(folder / "data")


@pytest.fixture(scope="session")
def data(phantoms, tmp_path_factory) -> XrayDataset:
    """About 110 phantoms of two classes in train, val and test."""
    return prepare(tmp_path_factory.mktemp("binary"), input=str(phantoms), val_fraction=0.28)


@pytest.fixture(scope="session")
def cause_data(phantoms, tmp_path_factory) -> XrayDataset:
    """The same of three classes."""
    return prepare(tmp_path_factory.mktemp("cause"), input=str(phantoms), labels="cause", val_fraction=0.28)


@pytest.fixture(scope="session")
def multi_label_data(phantoms, tmp_path_factory) -> XrayDataset:
    """The same, each image with any of three labels: `opacity`, `left` and `odd`."""
    folder = tmp_path_factory.mktemp("multi")
    paths = sorted(path for path in phantoms.rglob("*.jpeg"))
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "patient", "split"])
        for number, path in enumerate(paths):
            labels = ["opacity"] * ("PNEUMONIA" in str(path)) + ["left"] * (number % 3 == 0) + ["odd"] * (number % 2)
            split = "val" if number % 4 == 0 else "train"
            writer.writerow([path.relative_to(phantoms), "|".join(labels), f"p{number}", split])
    return prepare(folder, input=str(folder / "table.csv"), images_root=str(phantoms), missing="negative")


@pytest.fixture(scope="session")
def small() -> Callable[..., TrainConfig]:
    """`small(**changes)`: a configuration that trains in seconds."""
    return lambda **changes: TrainConfig.from_json({**SMALL, **changes})


@pytest.fixture(scope="session")
def start(small) -> Callable[..., Run]:
    """`start(folder, data, **changes)`: a run that is yet to be trained."""

    def start_run(folder: Path, data: XrayDataset, **changes) -> Run:
        return create_run(folder, small(**changes), DataFacts.of(data))

    return start_run


@pytest.fixture(scope="session")
def trained(data, start, tmp_path_factory) -> Run:
    """A finished run of two epochs on `data`; not to be changed."""
    run = start(tmp_path_factory.mktemp("runs") / "small", data)
    train(run, data, quiet=True)
    return run


@pytest.fixture
def run(trained, tmp_path) -> Run:
    """A copy of the trained run, to write to."""
    return open_run(shutil.copytree(trained.root, tmp_path / "run"))

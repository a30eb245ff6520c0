"""A data set that the tests of streams share, and its streams with every cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfrecords.dataset import XrayDataset, open_dataset

SHARDS = {"train": (13, 7, 9, 4), "val": (5, 3)}


def shape_of(number: int) -> tuple[int, int]:
    return 20 + 7 * number % 31, 18 + 11 * number % 37


@pytest.fixture(scope="session")
def made(make, tmp_path_factory):
    """33 and 8 small raw images of many shapes, with a rung of 16."""
    return make(tmp_path_factory.mktemp("made") / "set", "raw", sizes=(16,), shards=SHARDS, shape=shape_of)


class Caching(XrayDataset):
    """A data set whose streams have other options unless told otherwise."""

    def __init__(self, root: Path, **defaults):
        super().__init__(root)
        self.defaults = defaults

    def options(self, split, **options):
        return super().options(split, **{**self.defaults, **options})


@pytest.fixture(scope="session", params=["memory", "disk", "none"])
def data(made, request, tmp_path_factory) -> XrayDataset:
    """The data set, streamed with every cache in turn; `auto` is one of them."""
    return Caching(made.root, cache=request.param, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def plain(made) -> XrayDataset:
    return open_dataset(made.root)

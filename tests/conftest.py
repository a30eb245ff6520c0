"""Fixtures shared by all tests: a small phantom set, and the real X-rays where they are there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from phantoms.phantom import PhantomConfig, write_phantoms

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell that starts the tests in the background ignores Ctrl-C for all below it, and some tests press it
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """A folder of about 110 small phantoms in train, val and test, with two planted duplicates."""
    folder = tmp_path_factory.mktemp("phantoms") / "images"
    write_phantoms(PhantomConfig(to=str(folder), patients=64, seed=3, duplicates=2, scale=0.26))
    return folder


@pytest.fixture(scope="session")
def fullres() -> Path:
    """185 untouched originals of the Kermany data set; skips where they are absent."""
    data = Path(os.environ.get("CXR_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    folder = data / "kermany_fullres"
    if not folder.is_dir():
        pytest.skip(f"the real X-rays are not at {folder}; set CXR_TEST_DATA to the folder that holds kermany_fullres")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The trainer's files last: the tuner's wait for processes, and at the end would leave one of two workers idle."""
    items.sort(key=lambda item: "trainer" in item.path.parts)

"""Fixtures shared by all tests: a small phantom set, and the real X-rays where they are there."""

from __future__ import annotations

import os
import re
import signal
from html.parser import HTMLParser
from pathlib import Path

import pytest

from phantoms.phantom import PhantomConfig, write_phantoms

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell that starts the tests in the background ignores Ctrl-C for all below it, and some tests press it
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]


class Page(HTMLParser):
    """A page of a report: fails unless tags close, ids are unique, and all it refers to is in the page.

    Attributes:
      tags: names of the elements, in order.
      words: texts between tags; `text` joins them.
    """

    VOID = frozenset({"meta", "img", "br", "link", "hr", "input"})

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self._references: set[str] = set()
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self._open
        assert len(self.ids) == len(set(self.ids))
        assert self._references <= set(self.ids)
        assert not re.search(r"(?<!xmlns=\")(?<!xmlns:xlink=\")https?://", self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href"):
                assert value.startswith(("#", "data:image/jpeg;base64,"))
            self._references |= {"".join(found) for found in re.findall(r"url\(#([^)]*)\)|^#([a-z].*)", value or "")}
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="session")
def read_page() -> type[Page]:
    """`read_page(path)` reads and checks a page."""
    return Page


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

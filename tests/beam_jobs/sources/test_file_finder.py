"""Which file a cell means."""

from __future__ import annotations

import unicodedata

import pytest

from beam_jobs.sources.file_finder import FileFinder

FILES = [
    "images_001/images/1.png",
    "images_002/images/2.png",
    "train/p1/view.jpg",
    "train/p2/view.jpg",
    "x/é.png",
    "3.tar/3.png",
]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("images_001/images/1.png", ("images_001/images/1.png",)),
        ("./images_001//images/1.png", ("images_001/images/1.png",)),
        ("images_001\\images\\1.png", ("images_001/images/1.png",)),
        ("1.png", ("images_001/images/1.png",)),
        ("1", ("images_001/images/1.png",)),
        ("images/2", ("images_002/images/2.png",)),
        ("/home/x/set/train/p2/view.jpg", ("train/p2/view.jpg",)),
        ("C:\\set\\train\\p2\\view.jpg", ("train/p2/view.jpg",)),
        ("view.jpg", ("train/p1/view.jpg", "train/p2/view.jpg")),
        ("p1/view.jpg", ("train/p1/view.jpg",)),
        ("p3/view.jpg", ()),
        ("1.jpg", ()),
        ("11.png", ()),
        (unicodedata.normalize("NFD", "x/é.png"), ("x/é.png",)),
        ("../secret.png", ()),
        ("", ()),
    ],
)
def test_what_a_cell_means(cell: str, expected: tuple[str, ...]):
    assert FileFinder(FILES).find(cell) == expected


def test_a_decomposed_file_name_is_given_back_as_it_is():
    name = unicodedata.normalize("NFD", "é.png")
    assert FileFinder([name]).find("é.png") == (name,)

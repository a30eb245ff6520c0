"""Imitations of the known data sets, recognised and read; each is told from the others and from anything else."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from beam_jobs.sources.image_list import ImageList, list_images
from beam_jobs.sources.known_layouts import known_layouts, parse_layout
from beam_jobs.sources.reading import Reading
from beam_jobs.sources.source_image import SourceImage
from beam_jobs.sources.stores import open_store
from cxr.errors import InputError


def read(root: Path, layout: str = "auto", **options) -> ImageList:
    return list_images(open_store(str(root)), Reading(**options), layout)


def check(image: SourceImage, known) -> None:
    said = known.images[image.path]
    patient = said.patient if image.patient or not said.patient else None  # Kermany's are told later, by file names
    assert (frozenset(image.labels), image.split, image.patient) == (said.labels, said.split, patient)
    assert (image.view, image.age, image.sex, frozenset(image.unknown)) == (said.view, said.age, said.sex, said.unknown)


@pytest.mark.parametrize("name", known_layouts())
def test_a_known_set_is_recognised_and_read(imitation, name: str):
    known = imitation(name)
    catalogue = read(known.root)
    assert catalogue.described[0] == (
        f"recognised as {known_layouts()[name].title} (--layout {name}; --layout none forbids it)"
    )
    assert {image.path for image in catalogue.images} == set(known.images)
    for image in catalogue.images:
        check(image, known)
    assert read(known.root, name).images == catalogue.images


@pytest.mark.parametrize("name", sorted(set(known_layouts()) - {"kermany"}))
def test_without_its_layout_nothing_is_guessed(imitation, name: str):
    """None of them would be split/class folders; the job stops and says why."""
    with pytest.raises(InputError, match=r"--label-pattern|--table"):
        read(imitation(name).root, "none")


def test_a_layout_can_be_forced_only_where_its_tables_are(imitation):
    with pytest.raises(InputError, match=r"--layout chexpert: train\.csv, a table of CheXpert, is not below the input"):
        read(imitation("nih-chestxray14").root, "chexpert")
    with pytest.raises(InputError, match="--layout nih: there is no such layout"):
        read(imitation("nih-chestxray14").root, "nih")


def test_what_a_person_says_goes_before_the_layout(imitation):
    root = imitation("chexpert").root
    frontal = read(root, where=("Frontal/Lateral=Frontal",), uncertain="positive")
    assert len(frontal.images) == 165
    assert not any(image.unknown for image in frontal.images)
    blank = [len(image.unknown) for image in read(root, missing="ignore").images]
    assert all(more > len(image.unknown) for more, image in zip(blank, read(root).images, strict=True))


def test_a_part_of_the_download(tmp_path: Path, imitation):
    whole = imitation("nih-chestxray14")
    shutil.copytree(whole.root, tmp_path / "nih")
    for part in range(3, 13):
        shutil.rmtree(tmp_path / f"nih/images_{part:03d}")
    catalogue = read(tmp_path / "nih")
    assert 0 < len(catalogue.images) < 40
    assert f"{210 - len(catalogue.images)} of 210 rows name files that are not there" in catalogue.described
    for image in catalogue.images:
        check(image, whole)


def test_one_folder_above_and_unpacked_zips(tmp_path: Path, imitation):
    """The folder that a person gives may be the one that holds the download."""
    shutil.copytree(imitation("chexpert").root, tmp_path / "data/CheXpert-v1.0-small")
    catalogue = read(tmp_path / "data")
    assert {image.path.removeprefix("CheXpert-v1.0-small/") for image in catalogue.images} == set(
        imitation("chexpert").images
    )
    shutil.unpack_archive(imitation("kermany").root, tmp_path / "kermany")
    found = read(tmp_path / "kermany").images
    assert {image.path for image in found} == set(imitation("kermany").images)


def test_a_layout_of_ones_own(tmp_path: Path):
    for name in ("x/A_1.png", "x/B_1.png", "x/list.md"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    file = tmp_path / "mine.toml"
    file.write_text("title = 'Mine'\n[read]\nlabel_pattern = '/([AB])_'\n[read.rename_labels]\nA = 'NORMAL'\n")
    catalogue = read(tmp_path / "in", str(file))
    assert {image.path: image.labels for image in catalogue.images} == {"x/A_1.png": ("NORMAL",), "x/B_1.png": ("B",)}
    assert catalogue.described[0] == f"layout: Mine (--layout {file})"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = ", "the layout x is not valid TOML"),
        ("titel = 'x'", "the layout x has no part titel; did you mean title"),
        ("[read]\ntabel = []", r"the layout x has no part read\.tabel; did you mean table"),
        ("[recognise]\nfolder = 1", r"the layout x has no part recognise\.folder"),
    ],
)
def test_layouts_with_faults(text: str, message: str):
    with pytest.raises(InputError, match=message):
        parse_layout("x", text)


def test_layouts_say_what_they_are():
    for layout in known_layouts().values():
        assert layout.title and layout.about and "https://" in layout.source
        assert all(dataclasses.asdict(layout).values()) or not layout.columns

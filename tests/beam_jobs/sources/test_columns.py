"""Which column says what."""

from __future__ import annotations

import pytest

from beam_jobs.sources.columns import choose_columns, make_paths, to_age, to_sex
from cxr.errors import InputError
from cxr.tables import Table


def table(*names: str) -> Table:
    return Table("t.csv", {name: [f"{name}1", f"{name}2"] for name in names}, [2, 3])


def test_names_in_use_are_told():
    found, told = choose_columns(
        table("Image Index", "Finding Labels", "Patient ID", "View Position", "Patient Age"), {}
    )
    assert found == {
        "path": "Image Index", "label": "Finding Labels", "patient": "Patient ID", "view": "View Position",
        "age": "Patient Age",
    }  # fmt: skip
    assert told[0] == "path from 'Image Index'"
    assert choose_columns(table("path", "label", "Patient"), {}) == (
        {"path": "path", "label": "label", "patient": "Patient"},
        (),
    )


def test_what_is_given_goes_before():
    assert choose_columns(table("path", "class", "dx"), {"label": "dx"})[0] == {"path": "path", "label": "dx"}
    assert choose_columns(table("path", "label", "patient"), {"patient": ""})[0] == {"path": "path", "label": "label"}
    assert choose_columns(table("path", "label"), {"sex": "Sex?"})[0] == {"path": "path", "label": "label"}
    assert choose_columns(table("id", "label"), {"path": "x/{id}.png"})[0] == {"path": "x/{id}.png", "label": "label"}


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (
            ("filename", "image", "label"),
            {},
            r"the columns 'filename' and 'image' may each be the path.*--columns path=NAME",
        ),
        (
            ("path", "label"),
            {"label": "Class"},
            "--columns label=Class: t.csv has no column 'Class'; it has path, label",
        ),
        (("path", "label"), {"lable": "label"}, "--columns lable=label: expected one of path, label, patient"),
    ],
)
def test_what_is_not_certain(names, given, message):
    with pytest.raises(InputError, match=message):
        choose_columns(table(*names), given)


def test_paths_by_a_template():
    rows = Table("t.csv", {"subject id": ["10000032", "19"], "dicom": ["a-b", "c"]}, [2, 3])
    assert make_paths(rows, "p{subject id:.2}/p{subject id}/{dicom}.jpg") == ["p10/p10000032/a-b.jpg", "p19/p19/c.jpg"]
    assert make_paths(rows, "dicom") == ["a-b", "c"]
    for template, message in (
        ("{x}.png", "has no column 'x'"),
        ("{dicom", "not a template"),
        ("{dicom:d}", "not a template"),
    ):
        with pytest.raises(InputError, match=message):
            make_paths(rows, template)


@pytest.mark.parametrize(
    ("cell", "age"),
    [("058Y", "58"), ("58", "58"), ("58.0", "58"), ("006M", "0.5"), ("3W", "0.06"), ("old", ""), ("", "")],
)
def test_ages(cell: str, age: str):
    assert to_age(cell) == age


@pytest.mark.parametrize(
    ("cell", "sex"), [("Female", "F"), ("m", "M"), ("M ", "M"), ("Unknown", ""), ("", ""), ("O", "O")]
)
def test_sexes(cell: str, sex: str):
    assert to_sex(cell) == sex

"""File names of the Kermany set, most of them real."""

from __future__ import annotations

import pytest

from beam_jobs.sources.naming import kermany_cause, kermany_patient, nih_patient, normalise_cause


@pytest.mark.parametrize(
    ("path", "patient", "cause"),
    [
        ("train/PNEUMONIA/person447_virus_921_1.jpeg", "person447_virus", "viral"),
        ("train/PNEUMONIA/person447_bacteria_921.jpeg", "person447_bacteria", "bacterial"),
        ("person1003_virus_1685.jpeg", "person1003_virus", "viral"),
        ("chest_xray/test/PNEUMONIA/person1_virus_6.jpeg", "person1_virus", "viral"),
        ("train/NORMAL/IM-0214-0001.jpeg", "IM-0214", None),
        ("train/NORMAL/IM-0439-0001-0001.jpeg", "IM-0439", None),
        ("train/NORMAL/IM-0467-0001-0002.jpeg", "IM-0467", None),
        ("train/NORMAL/NORMAL2-IM-0402-0001.jpeg", "NORMAL2-IM-0402", None),
        ("IM-0001.png", "IM-0001", None),
        ("train/PNEUMONIA/person7.jpeg", None, None),
        ("train/PNEUMONIA/person7_fungus_1.jpeg", None, None),
        ("train/PNEUMONIA/aperson7_virus_1.jpeg", None, None),
        ("person7_virus_1/00001.jpeg", None, None),
        ("IM-0214-0001/scan.jpeg", None, None),
        ("patient_IM-0214-0001.jpeg", None, None),
        ("00000001_000.png", None, None),
    ],
)
def test_kermany_names(path: str, patient: str | None, cause: str | None):
    assert kermany_patient(path, normal=True) == patient
    assert kermany_cause(path) == cause


def test_im_names_mean_a_patient_only_where_the_image_is_normal():
    """Viewers export any study as IM-0001-0001; in the Kermany set only normal images are named so."""
    assert kermany_patient("siteA/PNEUMONIA/IM-0001-0001.jpeg", normal=False) is None
    assert kermany_patient("PNEUMONIA/person1_virus_1.jpeg", normal=False) == "person1_virus"


def test_numbers_restart_for_each_cause_and_prefix():
    names = ["person5_virus_1.jpeg", "person5_bacteria_1.jpeg", "IM-0005-0001.jpeg", "NORMAL2-IM-0005-0001.jpeg"]
    assert len({kermany_patient(name, normal=True) for name in names}) == 4
    assert kermany_patient("person5_virus_1.jpeg", False) == kermany_patient("test/x/person5_virus_9.jpeg", False)


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        ("Virus", "viral"),
        ("VIRAL", "viral"),
        ("bacteria", "bacterial"),
        ("bacterial", "bacterial"),
        ("none", "none"),
        ("Normal", "normal"),
        ("Tuberculosis", "Tuberculosis"),
        ("", None),
        (None, None),
    ],
)
def test_spellings_of_causes(cause: str | None, expected: str | None):
    assert normalise_cause(cause) == expected


@pytest.mark.parametrize(
    ("path", "patient"),
    [
        ("PNEUMONIA/00007007_004.jpg", "00007007"),
        ("00000001_000.png", "00000001"),
        ("0000001_000.png", None),
        ("00000001_000_1.png", None),
    ],
)
def test_nih_names(path: str, patient: str | None):
    assert nih_patient(path) == patient

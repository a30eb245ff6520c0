"""Tables and folders as people have them: read as what they mean, or the job stops and names the option to use."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from beam_jobs.sources.image_list import ImageList, list_images
from beam_jobs.sources.reading import Reading
from beam_jobs.sources.source_image import SourceImage
from beam_jobs.sources.stores import open_store
from cxr.errors import InputError


def lay(root: Path, *paths: str, **texts: str) -> Path:
    """Makes empty-looking files, and tables from their text."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    for name, text in texts.items():
        (root / f"{name}.csv").write_text(text, encoding="utf-8")
    return root


def read(root: Path, table: str | tuple[str, ...] | None = None, **options) -> ImageList:
    tables = None if table is None else (table,) if isinstance(table, str) else table
    return list_images(open_store(str(root)), Reading(table=tables, **options))


def labels_of(catalogue: ImageList) -> dict[str, tuple[str, ...]]:
    return {image.path: image.labels for image in catalogue.images}


FILES = ("a/1.png", "a/2.png", "b/3, of 4.png", "b/3.png")
FULL = {
    "a/1.png": ("N", "val", "p7", "normal"),
    "a/2.png": ("B|A", "test", None, None),
    "b/3, of 4.png": ("A", "train", "p8", "virus"),
}


@pytest.mark.parametrize(
    "text",
    [
        "path,label,patient,split,cause,comment\r\na/1.png,N,p7,Validation,Normal,x\r\n\r\na/2.png,B| A |B|,,TEST,,\r\n"
        '"b/3, of 4.png",A,p8,train,VIRUS,"two\r\nlines"\r\n',
        "cause\tPATH\t Label \tPatient\tSplit\nNormal\ta/1.png\tN\tp7\tVAL\n\t./a//2.png\tB|A\t\ttesting\n"
        "virus\tb/3, of 4.png\tA\tp8\ttraining\n",
        "path;label;patient;split;cause\na/1.png;N;p7;dev;normal\nb/../a/2.png;['B', 'A'];nan;test;\n"
        "b/3, of 4.png;A;p8;train;virus\n",
    ],
)
def test_all_columns_of_a_table(tmp_path: Path, text: str):
    images = {image.path: image for image in read(lay(tmp_path, *FILES, t=text), "t.csv").images}
    assert {
        path: ("|".join(image.labels), image.split, image.patient, image.cause) for path, image in images.items()
    } == FULL
    for path, image in images.items():
        assert (image.bytes, image.modified) == (len(path), (tmp_path / path).stat().st_mtime_ns)


def test_groups_and_json(tmp_path: Path):
    rows = [
        {
            "path": "a/1.png",
            "label": 3,
            "patient": 12,
            "Patient Age": "058Y",
            "Sex": "female",
            "view": "pa",
            "site": "X",
        },
        {"path": "a/2.png", "label": ["4"], "patient": 13},
    ]
    (lay(tmp_path, *FILES) / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = read(tmp_path, "t.jsonl", classes=("3", "4")).images
    stamp = (tmp_path / "a/1.png").stat().st_mtime_ns
    assert first == SourceImage("a/1.png", 7, stamp, ("3",), None, "12", None, (), "PA", "58", "F", "X")
    assert (second.labels, second.view, second.age, second.sex, second.site) == (("4",), "", "", "", "")


ROWS = "path,label\na/1.png,N\na/2.png,P\n"
READ = {
    "base names": ("path,label\n1.png,N\n2.png,P\n", {}),
    "without endings": ("path,label\na/1,N\na/2,P\n", {}),
    "other slashes": ("path,label\na\\1.png,N\na\\2.png,P\n", {}),
    "another computer's paths": ("path,label\n/home/x/a/1.png,N\nC:\\x\\a\\2.png,P\n", {}),
    "synonyms": ("filename,class\na/1.png,N\na/2.png,P\n", {}),
    "identical rows": (f"{ROWS}a/1.png,N\n", {}),
    "chosen columns": ("id,x,label\n1,N,8\n2,P,9\n", {"columns": {"path": "a/{id}.png", "label": "x"}}),
    "renamed labels": ("path,label\na/1.png,0\na/2.png,tb\n", {"rename_labels": {"0": "N", "tb": "P"}}),
    "labels of paths": (
        "path\na/1.png\na/2.png\n",
        {"label_pattern": "(1|2)[.]", "rename_labels": {"1": "N", "2": "P"}},
    ),
    "left out rows": (f"{ROWS}b/3,nan\n", {"missing": "ignore"}),
    "filtered rows": ("path,label,view\na/1.png,N,PA\na/2.png,P,PA\nb/3,N,L\n", {"where": ("view=PA",)}),
    "a part of the files": (f"{ROWS}a/9.png,N\n", {"partial": True}),
}


@pytest.mark.parametrize("name", READ)
def test_tables_that_are_read(tmp_path: Path, name: str):
    text, options = READ[name]
    assert labels_of(read(lay(tmp_path, *FILES, t=text), "t.csv", **options)) == {"a/1.png": ("N",), "a/2.png": ("P",)}


def test_decomposed_unicode(tmp_path: Path):
    lay(tmp_path, unicodedata.normalize("NFD", "é.png"), "n.png", t="path,label\né.png,N\nn.png,P\n")
    assert len(read(tmp_path, "t.csv").images) == 2


STOPPED = {
    "case": ("path,label\na/1.png,N\na/2.png,n\n", "'N' and 'n' .*differ in case.*--rename-labels"),
    "numbers": ("path,label\na/1.png,0\na/2.png,1\n", "the label '0' is a number.*--rename-labels FILE.*--classes 0,1"),
    "nan": ("path,label\na/1.png,N\na/2.png,nan\n", "line 3: there is no label, as in 1 of 2 rows.*--missing ignore"),
    "commas": (
        'path,label\na/1.png,mass\na/2.png,"mass, nodule"\n', "'mass, nodule' looks like several.*--label-separator ','"
    ),
    "a fourth split": (
        "path,label,split\na/1.png,N,train\na/2.png,P,tune\n", r"the split 'tune' of 1 images.*--rename-splits tune=val"
    ),
    "folds": (
        "path,label,fold\na/1.png,N,0\na/2.png,P,1\n", "the split '0' of 1 images is none of train.*--split patient"
    ),
    "readers": (
        f"{ROWS}a/1.png,P\n", r"1 images appear in rows with different labels, a/1\.png .*lines 2, 4.*--readers any"
    ),
    "patients": (
        "path,label,patient\na/1.png,N,p1\na/2.png,P,p2\na/1.png,N,p3\n",
        r"a/1\.png has the patients p1 and p3 in different",
    ),
    "missing files": (
        f"{ROWS}a/9.png,N\na,N\n",
        r"names 2 files that do not exist below .*'a/9\.png' \(line 4\), 'a' \(line 5\).*--partial",
    ),
    "no file at all": ("path,label\nx,N\ny,P\n", "names 2 files that do not exist"),
    "ambiguous": (
        "path,label\n1.png,N\nb/3,P\n", r"line 2: '1\.png' may be 2 files: a/1\.png, c/1\.png.*--columns path="
    ),
    "two paths": (
        "file,image,label\na/1.png,a/1.png,N\n", "'file' and 'image' may each be the path.*--columns path=NAME"
    ),
    "no path": ("x,label\na/1.png,N\n", "no column is named like a path; it has x, label.*--columns path=NAME"),
    "no label": ("path,x\na/1.png,N\n", "no column is named like a label; it has path, x.*--columns label=NAME"),
    "empty path": ("path,label\n,N\n", "line 2: the path is empty"),
    "outside": (
        "path,label\n../secret.png,N\n", r"names 1 files that do not exist below .*'\.\./secret\.png' \(line 2\)"
    ),
    "a nul": ("path,label\na\0b.png,N\n", "t.csv"),
}  # fmt: skip


@pytest.mark.parametrize("name", STOPPED)
def test_tables_that_stop_the_job(tmp_path: Path, name: str):
    text, message = STOPPED[name]
    lay(tmp_path, *FILES, *(["c/1.png"] if name == "ambiguous" else []), t=text)
    lay(tmp_path.parent, "secret.png")
    with pytest.raises(InputError, match=message):
        read(tmp_path, "t.csv")


SETTLED = {
    "nan": ({"missing": "ignore"}, {"a/1.png": ("N",)}),
    "commas": ({"label_separator": ","}, {"a/1.png": ("mass",), "a/2.png": ("mass", "nodule")}),
    "readers": ({"readers": "any"}, {"a/1.png": ("N", "P"), "a/2.png": ("P",)}),
    "numbers": ({"classes": ("0", "1")}, {"a/1.png": ("0",), "a/2.png": ("1",)}),
    "missing files": ({"partial": True}, {"a/1.png": ("N",), "a/2.png": ("P",)}),
}


@pytest.mark.parametrize("name", SETTLED)
def test_the_option_that_is_named_settles_it(tmp_path: Path, name: str):
    options, expected = SETTLED[name]
    assert labels_of(read(lay(tmp_path, *FILES, t=STOPPED[name][0]), "t.csv", **options)) == expected


def test_splits_of_other_names(tmp_path: Path):
    text = "path,label,split\na/1.png,N,training\na/2.png,P,tune\nb/3,N,holdout\n"
    names = {"tune": "val", "holdout": "extra"}
    catalogue = read(lay(tmp_path, *FILES, t=text), "t.csv", rename_splits=names)
    assert [image.split for image in catalogue.images] == ["train", "val", "extra"]
    assert catalogue.described[-1] == "splits: extra 1, train 1, val 1"
    assert {image.split for image in read(tmp_path, "t.csv", new_splits=True).images} == {None}


def test_one_column_a_label(tmp_path: Path):
    text = "path,patient,Mass,Edema,age\na/1.png,p,0,1.0,58\na/2.png,q,-1,,60\nb/3,r,1,0,7\n"
    found = read(lay(tmp_path, *FILES, t=text), "t.csv")
    assert found.label_names == ("Mass", "Edema")
    assert [(image.labels, image.unknown) for image in found.images] == [
        (("Edema",), ()),
        ((), ("Mass",)),
        (("Mass",), ()),
    ]
    assert "1 uncertain labels (-1) are unknown" in found.described
    assert "1 labels not mentioned count as absent" in found.described
    other = read(tmp_path, "t.csv", label_columns=("Edema",), uncertain="positive", missing="ignore")
    assert [(image.labels, image.unknown) for image in other.images] == [(("Edema",), ()), ((), ("Edema",)), ((), ())]


def test_lists_of_splits(tmp_path: Path):
    lay(tmp_path, *FILES, t="path,label\na/1.png,N\na/2.png,P\nb/3,N\n")
    (tmp_path / "train.txt").write_text("1.png\na/2.png\n\n")
    (tmp_path / "test.txt").write_text("3.png\n")
    lists = {"train": "train.txt", "test": str(tmp_path / "test.txt")}
    assert [image.split for image in read(tmp_path, "t.csv", split_lists=lists).images] == ["train", "train", "test"]
    with pytest.raises(InputError, match=r"--split-lists: 1 images are in no list, b/3\.png"):
        read(tmp_path, "t.csv", split_lists={"train": "train.txt"})
    (tmp_path / "test.txt").write_text("1.png\n")
    with pytest.raises(InputError, match=r"--split-lists: a/1\.png is in the lists of train and test"):
        read(tmp_path, "t.csv", split_lists=lists)


def test_patterns_for_patient_and_split(tmp_path: Path):
    root = lay(tmp_path, "N/train_p1_1.png", "P/test_p2_1.png")
    found = read(root, patient_pattern="_(p[0-9]+)_", split_pattern="/(train|test)_").images
    assert {image.path: (image.patient, image.split) for image in found} == {
        "N/train_p1_1.png": ("p1", "train"), "P/test_p2_1.png": ("p2", "test")
    }  # fmt: skip
    with pytest.raises(InputError, match=r"--patient-pattern '\(x\)' does not match [NP]/"):
        read(root, patient_pattern="(x)")


def test_one_patient_for_everybody_names_nobody(tmp_path: Path):
    names = [f"{number}.png" for number in range(24)]
    rows = "".join(f"{name},{'NP'[number % 2]},ANONYMOUS\n" for number, name in enumerate(names))
    found = read(lay(tmp_path, *names, t=f"path,label,patient\n{rows}"), "t.csv")
    assert {image.patient for image in found.images} == {None}
    assert "all 24 images have the patient 'ANONYMOUS': it names nobody, and was ignored" in found.described


def test_one_patient_in_several_spellings(tmp_path: Path):
    text = "path,label,patient\na/1.png,N,7\na/2.png,P,07.0\nb/3,N,x\n"
    assert [image.patient for image in read(lay(tmp_path, *FILES, t=text), "t.csv").images] == ["7", "7", "x"]
    (tmp_path / "t.csv").write_text(text.replace(",7\n", ",08\n"))
    assert [image.patient for image in read(tmp_path, "t.csv").images] == ["08", "07.0", "x"]


def test_a_table_beside_the_images_is_not_ignored(tmp_path: Path):
    root = lay(tmp_path, "N/1.png", "P/2.png", labels="file,patient\n1,p1\n2,p2\n", notes="x,y\nN,1\nP,2\n")
    with pytest.raises(
        InputError, match=r"the table labels\.csv names 2 of the 2 images in its column 'file'.*--table none"
    ):
        read(root)
    assert labels_of(read(root, ())) == {"N/1.png": ("N",), "P/2.png": ("P",)}


def test_images_that_are_normal_and_have_findings_are_counted(tmp_path: Path):
    text = "path,label\na/1.png,No Finding|Mass\na/2.png,Mass|Edema\nb/3,No Finding\n"
    described = read(lay(tmp_path, *FILES, t=text), "t.csv").described
    assert "1 images are normal and have findings too: a/1.png" in described


def test_documents_and_what_no_row_names_are_said(tmp_path: Path):
    assert "2 files that no row names were left out" in read(lay(tmp_path, *FILES, t=ROWS), "t.csv").described


def test_a_link_that_is_named(tmp_path: Path):
    lay(tmp_path / "elsewhere", "2.png")
    root = lay(tmp_path / "in", "a/1.png", t=ROWS)
    (root / "a/2.png").symlink_to(tmp_path / "elsewhere/2.png")
    assert len(read(root, "t.csv").images) == 2


def test_tables_that_are_not_there(tmp_path: Path):
    with pytest.raises(
        InputError, match=r"--table x\.csv: there is no such file, here or below .*; did you mean t\.csv\?"
    ):
        read(lay(tmp_path, *FILES, t=ROWS), "x.csv")


FOUND = {
    "an odd cell": ("path,Mass,Edema\na/1.png,0,1\na/2.png,1,0\nb/3,x,1\n", {}, "line 4: 'Mass' is 'x', where most"),
    "a column twice": ("path,Mass\na/1.png,1\n", {"label_columns": ("Mass", "mass")}, "a column is named twice"),
    "two cells, one file": ("path,label\nx/3.png,N\ny/3.png,P\n", {}, "'y/3.png' and 'x/3.png' can only be the file"),
    "parts that are shared": ("path,label\na/1.png,mass;nodule\na/2.png,edema;nodule\n", {}, "several joined by ';'"),
    "a name that is not there": ("path,label\na/1.png,N\n", {"where": ("label!=n",)}, "no row has 'n'"),
    "nested values": ('path,label\na/1.png,"{""name"": 1}"\na/2.png,P\n', {}, "a nested value"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_would_be_wrong_in_silence(tmp_path: Path, name: str):
    text, options, message = FOUND[name]
    root = lay(tmp_path, "a/1.png", "a/2.png", "3.png" if name == "two cells, one file" else "b/3.png", t=text)
    with pytest.raises(InputError, match=message):
        read(root, "t.csv", **options)


def test_renamed_label_columns(tmp_path: Path):
    lay(tmp_path, *FILES, t="path,Mass,Edema\na/1.png,1,0\na/2.png,0,1\n", names="from,to\nMass,Nodule\n")
    found = read(tmp_path, "t.csv", rename_labels=str(tmp_path / "names.csv"))
    assert (found.label_names, found.images[0].labels) == (("Nodule", "Edema"), ("Nodule",))
    (tmp_path / "names.csv").write_text("from,to\nMas,Nodule\n")
    with pytest.raises(InputError, match=r"there is no label 'Mas'; did you mean Mass\?"):
        read(tmp_path, "t.csv", rename_labels=str(tmp_path / "names.csv"))
    (tmp_path / "names.csv").write_text("from,to\nMass,A\nMass,B\n")
    with pytest.raises(InputError, match=r"line 3: 'Mass' has two new names, 'A' and 'B'"):
        read(tmp_path, "t.csv", rename_labels=str(tmp_path / "names.csv"))


def test_a_pattern_goes_before_a_column(tmp_path: Path):
    lay(tmp_path, *FILES, t="path,label\na/1.png,N\nb/3.png,P\n")
    found = read(tmp_path, "t.csv", label_pattern="^(a)/")
    assert labels_of(found) == {"a/1.png": ("a",)}
    assert "1 rows that it does not match are left out" in found.described

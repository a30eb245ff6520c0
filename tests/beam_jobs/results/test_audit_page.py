"""The audit as a page."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from beam_jobs.results.audit_page import audit_page
from beam_jobs.results.audit_pictures import AuditPictures, Shown

AUDIT = {
    "duplicates": {
        "groups": [
            {"pixel_hash": "a", "paths": ["x/1.png", "<b>2</b>.png"], "splits": ["test", "train"],
             "labels": ["NORMAL"], "patients": ["p1", "p2"]}
        ],
        "extra_copies": 1, "across_splits": 1, "across_labels": 0, "across_patients": 1,
    },
    "patients_across_splits": [{"patient": "p7", "images": {"test": 1, "train": 3}}],
    "balance": {"train": {"images": 4, "labels": {"NORMAL": 1, "TB": 3}, "shares": {"NORMAL": 0.25, "TB": 0.75}}},
    "label_from_encoding": {"TB": {"auc": 0.91, "single": {"width": 0.5, "format": 0.9}, "images": 4}},
    "label_from_outer_ring": {"TB": {"auc": 0.85, "images": 4}, "COPD": {"skipped": "needs at least 10 patients"}},
    "split_from_encoding": {"test": {"skipped": "needs at least 10 patients"}},
    "notes": ["a note"], "warnings": ["SHORTCUT: <script>"], "own_patients": 2,
}  # fmt: skip
NOTHING = {
    "duplicates": {"groups": [], "extra_copies": 0, "across_splits": 0, "across_labels": 0, "across_patients": 0},
    "patients_across_splits": [], "balance": {}, "label_from_encoding": {}, "label_from_outer_ring": {},
    "split_from_encoding": {}, "notes": [], "warnings": [], "own_patients": 0,
}  # fmt: skip
REJECTS = [{"path": f"{number}.png", "kind": "unreadable", "reason": "the <file> is empty"} for number in range(203)]
GREY, COLOUR = np.full((8, 6, 1), 99, np.uint8), np.full((6, 8, 3), 99, np.uint8)
PICTURES = AuditPictures(
    rings={"TB": [Shown(GREY, ("without TB", "mean of 3 images")), Shown(COLOUR, ("difference", "<i>"))]},
    examples={"train": {"NORMAL": [Shown(GREY, ("train: NORMAL", 'x/"1".png'))]}},
    duplicates=[[Shown(GREY, ("train: NORMAL", "x/1.png")), Shown(GREY, ("test: NORMAL", "<b>2</b>.png"))]],
)
NO_PICTURES = AuditPictures({}, {}, [])


def page_of(read_page, folder, audit, rejects=(), pictures=NO_PICTURES):
    (folder / "audit.html").write_text(audit_page("chest_xray", audit, rejects, pictures), encoding="utf-8")
    return read_page(folder / "audit.html")


@pytest.mark.parametrize(
    "text",
    ["SHORTCUT: <script>", "a note", "1 25.0% 3 75.0%", "label 'TB' 0.910 4 format 0.90, width 0.50",
     "'test' against 'train' - - not measured: needs at least 10 patients",
     "label 'TB' 0.850 4", "label 'COPD' - - not measured: needs at least 10 patients",
     "Where 'TB' differs outside without TB mean of 3 images difference <i>", "train NORMAL train: NORMAL x/\"1\".png",
     "Group 1 train: NORMAL x/1.png test: NORMAL <b>2</b>.png", "203 images are not in the data set",
     "0.png unreadable the <file> is empty", "3 more are in rejects.jsonl",
     "test, train NORMAL p1, p2 x/1.png, <b>2</b>.png",
     "p7 1 in test, 3 in train", "patient of 2 images"],
)  # fmt: skip
def test_every_finding_is_on_the_page(read_page, tmp_path, text):
    page = page_of(read_page, tmp_path, AUDIT, REJECTS, PICTURES)
    assert text in page.text
    assert not {"script", "b", "i", "file"} & set(page.tags)
    assert page.tags.count("img") == 5


def test_a_data_set_without_findings(read_page, tmp_path):
    assert "There are none." in page_of(read_page, tmp_path, NOTHING).text


def test_the_page_needs_neither_matplotlib_nor_tensorflow():
    code = (
        "import sys\nfrom beam_jobs.results.audit_page import audit_page\n"
        "from beam_jobs.results.audit_pictures import AuditPictures\n"
        f"audit_page('x', {AUDIT!r}, [], AuditPictures({{}}, {{}}, []))\n"
        "assert not {'matplotlib', 'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

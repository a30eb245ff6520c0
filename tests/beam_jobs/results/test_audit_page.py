"""The audit as a page."""

from __future__ import annotations

import subprocess
import sys

import pytest

from beam_jobs.results.audit_page import audit_page

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
    "split_from_encoding": {"test": {"skipped": "needs at least 10 patients"}},
    "notes": ["a note"], "warnings": ["SHORTCUT: <script>"], "own_patients": 2,
}  # fmt: skip
NOTHING = {
    "duplicates": {"groups": [], "extra_copies": 0, "across_splits": 0, "across_labels": 0, "across_patients": 0},
    "patients_across_splits": [], "balance": {}, "label_from_encoding": {}, "split_from_encoding": {}, "notes": [],
    "warnings": [], "own_patients": 0,
}  # fmt: skip


def page_of(read_page, folder, audit):
    (folder / "audit.html").write_text(audit_page("chest_xray", audit), encoding="utf-8")
    return read_page(folder / "audit.html")


@pytest.mark.parametrize(
    "text",
    ["SHORTCUT: <script>", "a note", "1 25.0% 3 75.0%", "label 'TB' 0.910 4 format 0.90, width 0.50",
     "'test' against 'train' - - not measured: needs at least 10 patients",
     "test, train NORMAL p1, p2 x/1.png, <b>2</b>.png",
     "p7 1 in test, 3 in train", "patient of 2 images"],
)  # fmt: skip
def test_every_finding_is_on_the_page(read_page, tmp_path, text):
    page = page_of(read_page, tmp_path, AUDIT)
    assert text in page.text
    assert not {"script", "b"} & set(page.tags)


def test_a_data_set_without_findings(read_page, tmp_path):
    assert "There are none." in page_of(read_page, tmp_path, NOTHING).text


def test_the_page_needs_neither_matplotlib_nor_tensorflow():
    code = (
        "import sys\nfrom beam_jobs.results.audit_page import audit_page\n"
        f"audit_page('x', {AUDIT!r})\nassert not {{'matplotlib', 'tensorflow', 'keras'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

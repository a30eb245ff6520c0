"""`make torture-inputs` on a part of its files: it finds them, compares them, and notices a pixel that differs."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("pydicom", reason="DICOM needs pydicom: pip install 'cxr-stream[dicom]'")
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "torture_inputs.py"
FEW = "pydicom/data/test_files/MR_small"


@pytest.fixture(scope="module")
def torture():
    spec = importlib.util.spec_from_file_location("torture_inputs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(torture, capsys, *arguments: str) -> tuple[int, dict[str, list[str]]]:
    """The exit status, and the first table by format."""
    status = torture.main(list(arguments))
    rows = [line.strip("|").split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    return status, {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows[1:]}


@pytest.mark.parametrize("part", [FEW, "examples_", "SC_rgb", "dicomdirtests/9889200", "matplotlib", "sklearn"])
def test_no_pixel_differs(torture, capsys, part):
    status, table = run(torture, capsys, "--only", part)
    assert (status, table["all"][3]) == (0, "0")
    assert int(table["all"][0]) > 0


def test_a_different_pixel_is_noticed(torture, capsys, monkeypatch):
    def decode_wrongly(data: bytes):
        decoded = torture_decode(data)
        pixels = decoded.pixels.copy()
        pixels[-1, -1] ^= 1
        return dataclasses.replace(decoded, pixels=pixels)

    torture_decode = torture.decode
    monkeypatch.setattr(torture, "decode", decode_wrongly)
    status, table = run(torture, capsys, "--only", "sklearn")
    assert status == 1
    assert table["all"] == ["0", "0", "0", "2"]


def test_other_folders_and_the_page(torture, capsys, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for suffix in (".png", ".tiff", ".bmp", ".webp", ".jpg"):
        cv2.imwrite(str(tmp_path / f"picture{suffix}"), picture)
    (tmp_path / "picture.txt").write_text("no image")
    cv2.imwrite(str(tmp_path / "picture-black.png"), picture * 0)
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n{torture.START}\nold\n{torture.END}\nafter\n")
    status, table = run(torture, capsys, "--folder", str(tmp_path), "--only", "/picture", "--write", str(page))
    assert status == 0
    assert {name: row[:2] for name, row in table.items() if len(row) == 4} == {
        **{kind: ["1", "0"] for kind in ("BMP", "JPEG", "TIFF", "WEBP")},
        "PNG": ["1", "1"],
        "other": ["0", "1"],
        "all": ["5", "2"],
    }
    text = page.read_text()
    assert text.startswith(f"# Page\n{torture.START}\n\n| format")
    assert text.endswith(f"{torture.END}\nafter\n")
    assert "there is nothing in the picture: N of its pixels are black" in text
    shutil.rmtree(tmp_path)

"""`make` and `make help` explain and do nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).resolve().parents[1] / "Makefile"


@pytest.mark.parametrize("arguments", [[], ["help"]])
def test_help_destroys_nothing(tmp_path, arguments):
    shutil.copy(MAKEFILE, tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine.txt").write_text("kept")
    done = subprocess.run(["make", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["Makefile", "demo", "mine.txt"]
    targets = re.search(r"^\.PHONY: (.*)$", MAKEFILE.read_text(), re.M)[1].split()
    assert set(re.findall(r"^make ([\w-]+)", done.stdout, re.M)) == set(targets) - {"help", "lint"}

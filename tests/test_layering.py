"""The packages import each other only along the arrows of the design, and commands start fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from cxr import cli

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("beam_jobs", "tfrecords", "trainer", "tuner")
ALLOWED = {
    "tfrecords": set(),
    "beam_jobs": {"tfrecords"},
    "trainer": {"tfrecords"},
    "tuner": {"tfrecords", "trainer"},
}


def imports_of(path: Path) -> set[str]:
    """First names of all modules that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_the_design_allows(package):
    for path in (REPOSITORY / package).rglob("*.py"):
        foreign = imports_of(path) & set(PACKAGES) - {package} - ALLOWED[package]
        assert not foreign, f"{path} imports {foreign}"


def loaded_after(statement: str) -> set[str]:
    """Top-level modules loaded by a statement in a fresh interpreter."""
    listing = "print('\\n'.join(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)"
    code = f"{statement}\nimport sys\n{listing}"  # statements print help texts on standard output
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return set(done.stderr.split())


def test_a_beam_worker_needs_no_tensorflow():
    loaded = loaded_after(
        "import beam_jobs.execution.pipeline, beam_jobs.results.job_log, tfrecords.verify, tfrecords.inspect"
    )
    assert "apache_beam" in loaded
    assert not loaded & {"tensorflow", "tensorflow_datasets", "keras", "numba"}


def test_a_reader_needs_no_beam():
    loaded = loaded_after(
        "import tfrecords.streaming.stream, tfrecords.format.tfds_image, trainer.training.input_monitor"
    )
    assert "tensorflow" in loaded
    assert "apache_beam" not in loaded


def test_looking_into_a_data_set_needs_no_tensorflow(tmp_path):
    opening = f"import tfrecords\ntry:\n    tfrecords.open_dataset({str(tmp_path)!r})\nexcept Exception:\n    pass"
    assert not loaded_after(opening) & {"apache_beam", "tensorflow", "keras", "numba"}


NOWHERE = {
    "bench": ["bench", "nowhere"],
    "train": ["train", "--data", "nowhere", "--run", "run"],
    "train from weights": [
        "train",
        "--data",
        "nowhere",
        "--run",
        "run",
        "--model",
        "resnet50",
        "--weights",
        "imagenet",
    ],
    "evaluate": ["evaluate", "--run", "nowhere"],
    "predict": ["predict", "--run", "nowhere", "setup.py"],
    "export": ["export", "--run", "nowhere", "--output", "export"],
    "tune": ["tune", "--data", "nowhere", "--project", "search"],
}


@pytest.mark.parametrize("command", NOWHERE)
def test_a_folder_that_is_missing_is_named_before_anything_heavy_is_loaded(command):
    loaded = loaded_after(f"from cxr import cli\nassert cli.main({NOWHERE[command]!r}) == 1")
    assert any("nowhere" in word for word in loaded)  # of the message
    assert not loaded & {"apache_beam", "tensorflow", "keras", "jax", "numba"}


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in cli.COMMANDS)])
def test_help_loads_nothing_heavy(arguments):
    statement = f"from cxr import cli\ntry:\n    cli.main({arguments!r})\nexcept SystemExit:\n    pass"
    heavy = {
        *("apache_beam", "tensorflow", "tensorflow_datasets", "keras", "jax", "numba"),
        *("sklearn", "scipy", "matplotlib", "tensorboard"),
    }
    assert not loaded_after(statement) & heavy


def test_every_command_explains_itself(capsys):
    assert cli.main([]) == 0
    usage = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert name in usage
        with pytest.raises(SystemExit) as stop:
            cli.main([name, "--help"])
        assert stop.value.code == 0
        assert f"usage: cxr {name}" in capsys.readouterr().out


def test_unknown_command(capsys):
    assert cli.main(["preproces"]) == 2
    assert "unknown command 'preproces'" in capsys.readouterr().err

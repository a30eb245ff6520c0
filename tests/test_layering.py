"""Packages and sub-packages import each other along the arrows of docs/architecture.md only; commands start fast."""

from __future__ import annotations

import ast
import collections
import subprocess
import sys
from pathlib import Path

import pytest

from cxr import cli

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = {
    "cxr": (),
    "tfrecords": ("cxr",),
    "beam_jobs": ("cxr", "tfrecords"),
    "phantoms": ("cxr",),
    "trainer": ("cxr", "tfrecords"),
    "tuner": ("cxr", "tfrecords", "trainer"),
}
"""What each package may import besides itself."""
WINGS = {
    "cxr.page": (),
    "tfrecords.format": (),
    "tfrecords.images": ("tfrecords.format",),
    "tfrecords.streaming": ("tfrecords.format", "tfrecords.images"),
    "beam_jobs.sources": (),
    "beam_jobs.planning": ("beam_jobs.sources",),
    "beam_jobs.execution": ("beam_jobs.sources", "beam_jobs.planning"),
    "beam_jobs.results": ("beam_jobs.sources", "beam_jobs.planning", "beam_jobs.execution"),
    "trainer.augmentation": ("trainer.models",),
    "trainer.models": (),
    "trainer.evaluation": (),
    "trainer.serving": (),
    "trainer.training": ("trainer.augmentation", "trainer.models", "trainer.evaluation"),
    "trainer.report": ("trainer.models", "trainer.evaluation", "trainer.training"),
    "tuner.space": (),
    "tuner.cluster": ("tuner.space",),
    "tuner.report": ("tuner.space",),
}
"""What each sub-package may import of the other sub-packages of its package."""


def _modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (REPOSITORY / package).rglob("*.py"):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _imports(path: Path) -> set[str]:
    """Our modules that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inner & MODULES.keys()) or {node.module or ""}
    return names & MODULES.keys()


GRAPH = {name: _imports(path) - {name} for name, path in MODULES.items()}


def _wing(module: str) -> str:
    """The sub-package that a module is in; a module at the top of its package stands for itself."""
    parts = module.split(".")
    inner = ".".join(parts[:2])
    return inner if (REPOSITORY / Path(*parts[:2])).is_dir() else module


def _circles(graph: dict[str, set[str]]) -> list[str]:
    """Names that can be reached from themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [*graph[start]]
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += graph[name]
        return seen

    return [name for name in graph if name in reached(name)]


def test_the_rules_are_about_what_there_is():
    wings = {_wing(name) for name in MODULES if len(name.split(".")) > 2}
    assert wings == set(WINGS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module):
    package, wing = module.split(".")[0], _wing(module)
    for imported in GRAPH[module]:
        other = imported.split(".")[0]
        if other != package:
            assert other in PACKAGES[package], f"{module} imports {imported}"
        elif wing in WINGS and _wing(imported) in WINGS and _wing(imported) != wing:
            assert _wing(imported) in WINGS[wing], f"{module} imports {imported}"


def test_there_is_no_circle():
    assert _circles(GRAPH) == []
    wings: dict[str, set[str]] = collections.defaultdict(set)
    for module, imported in GRAPH.items():
        wings[_wing(module)] |= {_wing(name) for name in imported} - {_wing(module)}
    assert _circles(wings) == []


def test_no_two_modules_have_one_name():
    names = collections.Counter(
        path.name for path in MODULES.values() if path.name not in ("__init__.py", "__main__.py")
    )
    assert [name for name, count in names.items() if count > 1] == []


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
    loaded = loaded_after(statement)
    assert not loaded & heavy
    assert arguments != ["--help"] or "numpy" not in loaded


def test_every_command_explains_itself(capsys):
    assert cli.main([]) == 0
    usage = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert name in usage
        with pytest.raises(SystemExit) as stop:
            cli.main([name, "--help"])
        assert stop.value.code == 0
        assert f"usage: cxr {name}" in capsys.readouterr().out


@pytest.mark.parametrize(("command", "hint"), [("trian", "did you mean train?"), ("zzz", "expected one of fetch, ")])
def test_unknown_command(capsys, command, hint):
    assert cli.main([command]) == 2
    said = capsys.readouterr().err
    assert f"there is no command '{command}'; {hint}" in said
    assert said.count("\n") == 1

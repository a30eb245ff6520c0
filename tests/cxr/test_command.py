"""Every command is built the same way; what is wrong with a command line is one line that helps."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from cxr import cli
from cxr.command import Command, Given
from cxr.console import run_command
from cxr.extras import MODULES
from cxr.kinds import Choice, Flag, Pairs, Several, Text, Whole, directory
from cxr.options import Options, fields_of, option, options


@options
class Some(Options):
    """Options of a command."""

    inputs: tuple[str, ...] = option(Several(Text(), metavar="FILE"), "what to read", positional=True)
    run: str = option(directory("RUN"), "where to write")
    epochs: int = option(Whole(1), "how long", default=15, group="training")
    model: str = option(Choice(("mlp", "cnn3")), "which one", default="mlp")
    shifts: bool = option(Flag(), "leave them out", default=True)
    equalize: bool = option(Flag(negated=True), "equalise", default=False)
    more: dict = option(Pairs(), "the rest", default_factory=dict)
    baseline: tuple[str, ...] = option(Several(Text(), 0), "compared", default=(), repeated=True)
    show: bool = option(Flag(), "show and stop", default=False, alone=True)


def command(run=lambda given: 0, **more) -> Command:
    return Command("some", "Does something.", run, Some, **more)


def test_what_is_given_and_nothing_else():
    given = command().parse(["a", "b", "--run", "r", "--more", "x=1", "y=2,3", "--more", "z=t"])
    assert given == {"inputs": ["a", "b"], "run": "r", "more": {"x": 1, "y": [2, 3], "z": "t"}}
    assert given.make(Some, epochs=3) == Some(("a", "b"), "r", 3, more={"x": 1, "y": [2, 3], "z": "t"})
    assert given.argv[0] == "a"


def test_flags_and_repeated_options():
    line = ["a", "--run", "r", "--no-shifts", "--no-equalize", "--baseline", "m", "--baseline", "n"]
    given = command().parse(line)
    assert (given["shifts"], given["equalize"], given["baseline"]) == (False, False, ["m", "n"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--run", "r"], "FILE is missing: what to read"),
        (["a"], "--run is missing: where to write"),
        (["a", "--run"], "--run: expected the path of a directory; received nothing"),
        (["a", "--run", "r", "--epochs", "x"], "--epochs x: expected a whole number of at least 1"),
        (["a", "--run", "r", "--epochs", "0"], "--epochs 0: expected a whole number of at least 1"),
        (["a", "--run", "r", "--epoch", "3"], "cxr some has no option --epoch; did you mean --epochs?"),
        (["a", "--run", "r", "--colour"], "cxr some has no option --colour; see cxr some --help"),
        (["a", "--run", "r", "--model", "mpl"], "--model mpl: expected one of mlp, cnn3; did you mean mlp?"),
        (["a", "--run", "r", "--show=1"], "--show: ignored explicit argument '1'"),
        (["a", "--run", "r", "--more", "x"], "--more x: expected values by name, NAME=VALUE"),
    ],
)
def test_a_bad_command_line_is_one_line_and_exit_status_2(line, message, capsys):
    assert run_command(command().main, line) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_flag_that_stands_alone_needs_nothing_else():
    assert command().parse(["--show"]) == {"show": True}


def test_unknown_options_pass_where_they_may():
    given = command(passes=True).parse(["a", "--run", "r", "--runner=Flink"])
    assert given.rest == ["--runner=Flink"]


def test_help_tells_options_defaults_and_groups(capsys):
    with pytest.raises(SystemExit) as stop:
        command().main(["--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0
    for part in ("usage: cxr some FILE --run RUN [OPTIONS]", "how long (15)", "training:", "--no-shifts", "mlp|cnn3"):
        assert part in said


def commands() -> dict[str, Command]:
    return {name: importlib.import_module(module).COMMAND for name, (module, _) in cli.COMMANDS.items()}


def test_every_command_is_a_module_named_like_it_and_built_the_same_way():
    for name, (module, _) in cli.COMMANDS.items():
        assert module.rpartition(".")[2] == name.replace("-", "_")
        found = importlib.import_module(module)
        assert isinstance(found.COMMAND, Command)
        assert found.COMMAND.name == name
        assert found.main == found.COMMAND.main
        for cls in found.COMMAND.classes:
            assert all(said.help for said in fields_of(cls).values())


@pytest.mark.parametrize("name", [name for name, made in commands().items() if made.needs])
def test_a_missing_package_is_named_before_anything_is_done(name, tmp_path):
    """Every module that a command needs, one by one, without a trace on the disk."""
    module = MODULES[commands()[name].needs][0]
    line = {
        "preprocess": ["--input", ".", "--output", "made"],
        "train": ["--data", ".", "--run", "made"],
        "evaluate": ["--run", "made"],
        "predict": [".", "--run", "made"],
        "export": ["--run", "made", "--output", "made"],
        "bench": ["made"],
        "tune": ["--data", ".", "--project", "made"],
        "tune-report": ["made"],
        "board": [],
    }[name]
    code = f"import sys; sys.modules[{module!r}] = None; from cxr import cli; sys.exit(cli.main({[name, *line]!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: cxr {name} needs the package '{module.replace('_', '-')}'")
    assert "pip install" in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_given_is_a_dictionary():
    assert Given(run="r").of(Some) == {"run": "r"}

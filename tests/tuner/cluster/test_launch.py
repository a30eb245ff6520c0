"""A search from the library and from the command line, and what is refused before it begins."""

import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

import tuner
from cxr.errors import DatasetError, InputError, OutputError
from tests.tuner.conftest import REPOSITORY
from trainer.board import find_logs
from trainer.run import open_run
from tuner.cluster.launch import _introduce
from tuner.cluster.live_table import LiveTable
from tuner.search_config import SearchConfig
from tuner.space.space import Space
from tuner.tune import main


@pytest.fixture(scope="module")
def searched(data, tmp_path_factory):
    """A search that is complete: three short trials by two workers, from the library."""
    project = tmp_path_factory.mktemp("searched") / "search"
    space = Space.named("compact").narrow({"model": "mlp,cnn3", "units": "64,128"})
    space = space.fix({"image_size": 32, "batch_size": 16, "width": 8})
    how = {"oracle": "random", "max_trials": 3, "epochs": 2, "pruner": "none"}
    config = SearchConfig(data=str(data), project=str(project), space=space, **how)
    return tuner.search(config, tuner.Resources(workers=2), quiet=True)


def test_a_search_from_the_library(searched):
    assert searched.state == "complete"
    assert [trial.status for trial in searched.trials] == ["completed"] * 3
    best = searched.best
    assert best.score == max(row["val_auc"] for row in best.history)
    assert [row["epoch"] for row in best.history] == [1, 2]
    assert best.parameters > 0 and best.images_per_second > 0 and best.seconds > 0
    assert best.config["model"] in ("mlp", "cnn3")
    assert searched.run(best).joinpath("checkpoints", "best.weights.h5").exists()
    assert not searched.run(best).joinpath("checkpoints", "last.npz").exists()  # nobody resumes it


def test_tensorboard_has_every_trial_with_all_hyperparameters(searched):
    from tensorboard.plugins.hparams import metadata

    folder = searched.project / "tensorboard"
    _, found = _hparams(folder)
    declared = {info.name for info in found[metadata.EXPERIMENT_TAG].experiment.hparam_infos}
    for trial in searched.trials:
        events, told = _hparams(folder / trial.id)
        session = told[metadata.SESSION_START_INFO_TAG].session_start_info
        assert set(session.hparams) == set(trial.values) <= declared
        assert metadata.SESSION_END_INFO_TAG in told
        assert len(events.Tensors("epoch/val_auc")) == 2
        (score,) = events.Tensors("score")
        assert score.tensor_proto.float_val or score.tensor_proto.tensor_content
    assert any(logged.kind == "search" for logged in find_logs(searched.project.parent))


def _hparams(folder):
    """What TensorBoard reads there: all events, and those of HParams by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = EventAccumulator(str(folder)).Reload()
    contents = events.PluginTagToContent("hparams")
    return events, {tag: plugin_data_pb2.HParamsPluginData.FromString(text) for tag, text in contents.items()}


@pytest.mark.slow
def test_a_search_that_is_complete_has_nothing_to_go_on_with_but_more_trials(searched):
    again = tuner.search(tuner.load_config(searched.project), resume=True, quiet=True)
    assert again.trials == searched.trials
    more = tuner.search(tuner.load_config(searched.project, max_trials=4), resume=True, quiet=True)
    assert len(more.trials) == 4 and more.trials[:3] == searched.trials


def test_the_table_shows_what_there_is(searched, tmp_path, data):
    from tuner.cluster.chief import Chief

    config = tuner.load_config(searched.project, max_trials=9)
    chief = Chief(config, json.loads((searched.project / "search.json").read_text())["data"]["digest"], resume=True)
    task = chief.next("worker-0", "p")
    chief.report("worker-0", "p", task["trial"], epoch=1, fraction=0.5, rows=[{"epoch": 1, "val_auc": 0.8125}])
    output = io.StringIO()
    console = Console(file=output, width=160, force_terminal=True)
    with LiveTable(console=console) as table:
        table.say("something happened")
        console.print(table.draw(chief))
    chief.put_down()
    shown = output.getvalue()
    assert searched.best.id in shown and f"{searched.best.score:.4f}" in shown
    assert "of 9 trials done" in shown and "1 running" in shown
    assert "training on worker-0" in shown and "1.5/2" in shown and "0.8125" in shown
    assert "something happened" in shown


@pytest.mark.slow
def test_final_runs_of_the_best(searched, capsys):
    from tuner.retraining import read_retrained, retrain_best, retrained_rows

    said = []
    finals = retrain_best(searched, 1, [0, 1], epochs=1, quiet=True, say=said.append)
    (name,) = finals["found"]
    assert name == f"trial {searched.best.id}" and len(finals["found"][name]) == 2 and len(said) == 2
    assert read_retrained(searched.project) == finals
    for run in finals["found"][name]:
        assert run["worst_roc_auc"] <= run["roc_auc"] and run["worst_balanced_accuracy"] <= run["balanced_accuracy"]
    before = {path: path.stat().st_mtime_ns for path in (searched.project / "final").glob("*/history.csv")}
    retrain_best(searched, 1, [0, 1], epochs=1, quiet=True, say=said.append)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # they are not trained again
    with pytest.raises(OutputError, match="with other settings"):
        retrain_best(searched, 1, [0], epochs=2, quiet=True, say=said.append)
    head, rows = retrained_rows(finals)
    assert len(rows) == 1 and len(head) == len(rows[0])
    with pytest.raises(InputError, match="expected a preset"):
        retrain_best(searched, 1, [0], baselines=["nothing"], quiet=True)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--project is missing"),
        (["--project", "P"], "--data is missing"),
        (["--project", "P", "--data", "nowhere"], "nowhere"),
        (["--project", "P", "--data", "DATA", "--oracle", "hyperbend"], "did you mean hyperband"),
        (["--project", "P", "--data", "DATA", "--objective", "auc"], "expected one of val_auc"),
        (["--project", "P", "--data", "DATA", "--epochs", "0"], "--epochs 0"),
        (["--project", "P", "--data", "DATA", "--max-trials", "0"], "--max-trials 0"),
        (["--project", "P", "--data", "DATA", "--oracle", "grid"], "these ranges have no end of values"),
        (["--project", "P", "--data", "DATA", "--fix", "modle=mlp"], "did you mean model"),
        (["--project", "P", "--data", "DATA", "--narrow", "model"], "--narrow model: expected values by name"),
        (["--project", "P", "--data", "DATA", "--space", "larg"], "expected one of compact"),
        (["--project", "P", "--data", "DATA", "--workers", "0"], "needs at least one worker"),
        (["--project", "P", "--data", "DATA", "--lease-seconds", "0"], "--lease-seconds 0"),
        (["--project", "P", "--data", "DATA", "--cache", "attic"], "--cache attic"),
        (["--project", "P", "--data", "DATA", "--bind", "here"], "expected HOST:PORT"),
        (["--project", "P", "--data", "DATA", "--bind", "192.0.2.1:0"], "cannot listen"),
        (["--project", "P", "--data", "DATA", "--chief", "a:1"], "--chief is for --role worker"),
        (["--project", "P", "--data", "DATA", "--role", "worker"], "needs --chief"),
        (["--project", "P", "--data", "DATA", "--role", "worker", "--chief", "a:1", "--seed", "1"], "set by the chief"),
        (["--project", "P", "--data", "DATA", "--resume"], "holds no search"),
        (["--project", "P", "--resume", "--fix", "model=mlp"], "leave out --space"),
        (["--project", "FULL", "--data", "DATA"], "holds something that is no search"),
        (["--project", "FILE", "--data", "DATA"], "is a file"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_said_before_anything_is_written(arguments, message, data, tmp_path):
    places = {"P": tmp_path / "search", "DATA": data, "FULL": tmp_path / "full", "FILE": tmp_path / "file"}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises((InputError, OutputError, DatasetError), match=message):
        main([str(places.get(argument, argument)) for argument in arguments])
    assert not any((tmp_path / "search").glob("*.json"))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_a_search_is_not_lost_by_mistake_and_not_gone_on_with_otherwise(searched, data):
    settings = {"data": str(data), "project": str(searched.project)}
    with pytest.raises(OutputError, match="holds a search already; --resume"):
        tuner.search(SearchConfig(**settings), quiet=True)
    with pytest.raises(InputError, match="epochs was 2"):
        tuner.search(tuner.load_config(searched.project, epochs=5), resume=True, quiet=True)
    with pytest.raises(InputError, match="choose one"):
        tuner.search(tuner.load_config(searched.project), resume=True, overwrite=True, quiet=True)
    assert tuner.read_search(searched.project).state == "complete"


def test_what_is_damaged_is_said(tmp_path):
    with pytest.raises(DatasetError, match="holds no search"):
        tuner.read_search(tmp_path)
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(DatasetError, match="cannot be read"):
        tuner.read_search(tmp_path)
    (tmp_path / "search.json").write_text('{"format": 9}')
    with pytest.raises(DatasetError, match="format 2"):
        tuner.load_config(tmp_path)


def test_a_port_that_others_reach_is_warned_of(capsys):
    config = SearchConfig(data="data", project="search")
    _introduce(LiveTable(), config, tuner.Resources(workers=1), "127.0.0.1:7171")
    assert "WARNING" not in capsys.readouterr().err
    _introduce(LiveTable(), config, tuner.Resources(workers=0), "0.0.0.0:7171")
    said = capsys.readouterr().err
    assert "without authentication" in said and "--role worker --chief" in said


def test_the_space_can_be_looked_at(capsys):
    assert main(["--show-space", "--space", "notebooks"]) == 0
    shown = capsys.readouterr().out
    assert "vgg16-frozen" in shown and "24 configurations" in shown
    assert main(["--show-space", "--fix", "model=mlp"]) == 0
    assert "model is always mlp" in capsys.readouterr().out


def test_help_is_quick_to_load():
    heavy = ("tensorflow", "keras", "keras_tuner", "sklearn", "matplotlib")
    code = f"import sys, tuner.tune, tuner.cluster.launch; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_an_objective_under_shifts(data, tmp_path):
    """The score is the worst of the shift suite; `worst_auc` is tested with a worker."""
    space = Space.named("compact").fix({"model": "mlp", "image_size": 32, "units": 64, "layers": 1})
    config = SearchConfig(
        data=str(data), project=str(tmp_path / "search"), oracle="random", max_trials=1, epochs=2, space=space,
        objective="worst_balanced_accuracy",
    )  # fmt: skip
    trial = tuner.search(config, quiet=True).best
    assert 0 <= trial.score <= 1


def test_the_chief_was_told_what_the_run_has(searched):
    for trial in searched.trials:
        assert open_run(searched.run(trial)).read_history() == trial.history

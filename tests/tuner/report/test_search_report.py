"""`cxr tune-report` on projects that the chief itself wrote, with what workers might have told it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cxr.console import run_command
from cxr.errors import DatasetError, OutputError
from trainer.train import choose_config
from tuner import read_search
from tuner.cluster.chief import Chief
from tuner.report import PAGE_NAME, write_report
from tuner.report.importance import hyperparameter_importance
from tuner.report.search_words import train_command
from tuner.report.trial_rows import failures, ranking, to_csv
from tuner.results import write_search_file
from tuner.search_config import SearchConfig
from tuner.space.space import Space
from tuner.tune_report import main, summarize

REPOSITORY = Path(__file__).resolve().parents[3]


class Searching:
    """A search whose trials are told what they come to."""

    def __init__(self, project: Path, **options):
        defaults = {"oracle": "random", "max_trials": 1000, "epochs": 4, "pruner": "none"}
        self.config = SearchConfig("data/cxr", str(project), **defaults | options)
        project.mkdir(parents=True)
        self.project, self.workers = project, 0
        self.write("running")
        self.chief = Chief(self.config, "d" * 64)

    def write(self, state, reason=""):
        write_search_file(self.project, {"settings": self.config.to_json(), "state": state, "reason": reason})

    def start(self):
        """A trial that is under way, as `(worker, id, config)`."""
        self.workers += 1
        answer = self.chief.next(f"w{self.workers}", "p")
        return f"w{self.workers}", answer["trial"], answer["config"]

    def run(self, count, score, outcome=lambda number: "completed", message=lambda number: "", **facts):
        """Runs trials: `score(config)` is the validation AUC or loss of the last epoch, which is the best."""
        for number in range(count):
            worker, trial, config = self.start()
            how = outcome(number)
            if how == "failed":
                self.chief.end(worker, "p", trial, "failed", message(number))
                continue
            value, name = score(config), self.chief.config.goal.monitor
            last = config["epochs"] if how == "completed" else 1
            sign = -1 if self.config.goal.direction == "max" else 1
            rows = [
                {"epoch": epoch, "loss": 1 / epoch, name: value + sign * 0.01 * (last - epoch),
                 "images_per_second": 1e6 / config["image_size"]}
                for epoch in range(1, last + 1)
            ]  # fmt: skip
            self.chief.end(
                worker, "p", trial, how, message(number) if how == "pruned" else "", value, last, rows,
                **{"parameters": 1000 * (number + 1), "seconds": 60.0} | facts,
            )  # fmt: skip

    def found(self):
        return read_search(self.project)


@pytest.fixture
def searching(tmp_path):
    """`searching(**options)`: makes a search in PROJECT/search."""
    return lambda name="search", **options: Searching(tmp_path / name, **options)


def by_rate(config):
    """Best at 1e-3."""
    return 0.95 - 0.1 * abs(math.log10(config["learning_rate"]) + 3)


def small_space(*names):
    """The compact space with all but some hyperparameters the same everywhere."""
    space = Space.named("compact").fix({"model": "cnn-separable"})
    return space.fix({each.name: each.samples[0] for each in space.parameters if each.name not in names})


def test_everything_of_a_search(searching, capsys, read_page):
    search = searching(space=small_space("image_size", "optimizer", "learning_rate", "dropout"))
    outcomes = ["completed"] * 5 + ["pruned", "failed"]
    search.run(
        35, by_rate, lambda number: outcomes[number % 7],
        lambda number: f"after epoch 1 <b>it</b> & {number}" if number % 7 == 5 else f"ran out of memory at {number}",
    )  # fmt: skip
    search.write("complete")
    assert main([str(search.project)]) == 0
    said = capsys.readouterr().out
    found, folder = search.found(), search.project / "report"
    best = found.best
    assert f"Trial {best.id} is the best of 30 with a score: val_auc {best.score:.4f}" in said
    assert "35 trials: 25 completed, 5 pruned, 5 failed. The search is complete." in said
    assert "failed (5): ran out of memory at 6" in said
    assert "20 more in trials.csv" in said
    assert re.search(r"Most important: (optimizer|learning_rate) (\(.*?\) )?0\.\d\d", said)
    assert f"--config {folder / 'best.json'}" in said and str(folder / PAGE_NAME) in said

    page = read_page(folder / PAGE_NAME)
    assert page.tags.count("svg") >= 9
    for trial in found.trials:
        assert trial.id in page.words
    for text in (
        "ran out of memory at 6",
        "after epoch 1 <b>it</b> & 5",
        f"val_auc {best.score:.4f}",
        "0.0001 to 0.01",
    ):
        assert text in page.text
    assert "b" not in page.tags  # markup of a message is text

    rows = list(csv.DictReader(io.StringIO((folder / "trials.csv").read_text(encoding="utf-8"))))
    assert [row["id"] for row in rows] == [trial.id for trial in found.trials]
    for row, trial in zip(rows, found.trials, strict=True):
        assert row["status"] == trial.status and row["message"] == (trial.message or "")
        assert row["score"] == ("" if trial.score is None else repr(trial.score))
        assert int(row["epochs"]) == len(trial.history) and int(row["epochs_given"]) == trial.epochs
        for name in ("optimizer", "learning_rate", "dropout", "image_size"):
            assert row[name] == str(trial.values.get(name, ""))
    assert [row["id"] for row in rows if row["rank"] == "1"] == [best.id]

    config, positive = choose_config(None, str(folder / "best.json"), {})
    assert config.to_json() == best.config and positive is None
    assert config.learning_rate == best.config["learning_rate"]


def test_the_command_trains_what_was_found(searching, tmp_path):
    search = searching("a search's", positive="PNEUMONIA")
    search.run(2, by_rate)
    found = search.found()
    command = train_command(found, found.best, tmp_path / "best one.json")
    assert shlex.split(command) == [
        "cxr", "train", "--data", "data/cxr", "--run", f"runs/a search's-{found.best.id}",
        "--config", f"{tmp_path}/best one.json", "--positive", "PNEUMONIA",
    ]  # fmt: skip


def test_the_ranking(searching):
    search = searching()
    search.run(12, by_rate, lambda number: "failed" if number == 3 else "completed")
    found = search.found()
    head, rows = ranking(found, ["optimizer", "learning_rate"], 5)
    assert head[:4] == ["rank", "trial", "score", "epochs"] and head[-2:] == ["optimizer", "learning_rate"]
    assert [row[0] for row in rows] == list("12345")
    scores = [float(row[2]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    best = found.ranked[0]
    assert rows[0][1:5] == [best.id, f"{best.score:.4f}", "4/4", "completed"]
    assert rows[0][5] == best.config["model"] and rows[0][6] == str(best.config["image_size"])
    assert rows[0][7] == f"{best.parameters:,}" and rows[0][-2] == best.values["optimizer"]


def test_a_loss_is_better_when_lower(searching, read_page):
    search = searching(objective="val_loss", space=small_space("optimizer", "learning_rate"))
    search.run(20, lambda config: 0.1 if config["optimizer"] == "sgd" else 40.0 + config["learning_rate"])
    found = search.found()
    assert found.best.values["optimizer"] == "sgd" and found.best.score == pytest.approx(0.1)
    assert hyperparameter_importance(found).names[0] == "optimizer"
    text = read_page(write_report(found) / PAGE_NAME).text
    assert "val_loss 0.1000" in text and "lower is better" in text


def test_of_hyperband_the_first_trial_of_a_configuration_counts(searching, read_page):
    search = searching(oracle="hyperband", epochs=9, max_trials=60, space=small_space("dropout", "augment", "schedule"))
    rng = np.random.default_rng(0)

    def score(config):
        return 0.6 + 0.08 * math.log(config["epochs"]) + 0.1 * (config["augment"] == "strong") + rng.normal(0, 0.005)

    search.run(60, score)
    found = search.found()
    assert len({trial.epochs for trial in found.trials}) > 1
    given = [json.dumps(dict(trial.values), sort_keys=True) for trial in found.trials]
    importances = hyperparameter_importance(found)
    assert importances.configurations == len(set(given)) < len(given)
    assert importances.names[0] == "augment" and importances.r2 > 0.3
    said = summarize(found)
    assert "Scores are not directly comparable: some trials were given different numbers of epochs" in said
    assert "Smaller: given fewer epochs." in read_page(write_report(found) / PAGE_NAME).text


def test_a_best_trial_of_few_epochs_says_so(searching):
    search = searching(oracle="hyperband", epochs=9, max_trials=3)
    search.run(3, by_rate)
    found = search.found()
    assert found.best.epochs < 9
    assert f"given {found.best.epochs} of at most 9 epochs, which best.json repeats; add --epochs 9" in summarize(found)


@pytest.mark.parametrize(("columns", "last"), [(60, "model"), (250, "learning_rate")])
def test_the_printed_ranking_fits_the_terminal(searching, monkeypatch, columns, last):
    monkeypatch.setenv("COLUMNS", str(columns))
    search = searching(space=small_space("learning_rate"))
    search.run(3, by_rate)
    (line,) = (line for line in summarize(search.found()).splitlines() if line.split()[:1] == ["rank"])
    assert len(line) <= columns and line.split()[-1] == last


def test_a_search_that_is_running(searching, capsys, read_page):
    search = searching()
    search.run(3, by_rate)
    worker, trial, _ = search.start()
    search.chief.report(worker, "p", trial, 1, rows=[{"epoch": 1, "val_auc": 0.7, "images_per_second": 90.0}])
    search.start()
    assert main([str(search.project), "--top", "2"]) == 0
    said = capsys.readouterr().out
    assert "5 trials: 3 completed, 2 running. The search is running, or was killed" in said
    assert "1 more in trials.csv" in said
    assert "at least 10 different configurations, and there are 3" in said
    page = read_page(search.project / "report" / PAGE_NAME)
    assert {each.id for each in search.found().trials} <= set(page.words)
    assert "Without a score" in page.words
    search.chief.put_down()
    assert "3 completed, 2 waiting" in summarize(search.found())


def test_a_search_that_was_stopped_or_failed(searching):
    search = searching(space=small_space("dropout"))
    search.run(1, by_rate)
    search.write("failed", "the disk is <full>")
    said = summarize(search.found())
    assert "is the only one with a score" in said and "1 trial: 1 completed" in said
    assert "The search ended early: the disk is <full>." in said and "--resume` resumes it" in said
    search.write("stopped")
    assert "The search was stopped. " in summarize(search.found())


def test_no_trial_yet(searching, capsys, read_page):
    search = searching()
    folder = search.project / "report"
    folder.mkdir()
    (folder / "best.json").write_text("{}")  # of a search that was here before
    assert main([str(search.project)]) == 0
    said = capsys.readouterr().out
    assert "No trial has a score yet." in said and "No trial yet." in said
    assert "train it" not in said
    assert "No trial has a score yet." in read_page(folder / PAGE_NAME).text
    assert not (folder / "best.json").exists()
    assert len((folder / "trials.csv").read_text(encoding="utf-8").splitlines()) == 1


def test_all_trials_failed(searching, capsys, read_page):
    search = searching(max_failures=9)
    reasons = ["no space left on /tmp/7", "no space left on /tmp/8", "NaN\n  at step 3", ""]
    search.run(7, by_rate, lambda number: "failed", lambda number: reasons[number % 4])
    found = search.found()
    grouped = [(reason, len(trials)) for reason, trials in failures(found).items()]
    assert grouped[0] == ("no space left on /tmp/7", 4)
    assert ("NaN", 2) in grouped and sum(count for _, count in grouped) == 7
    assert main([str(search.project)]) == 0
    said = capsys.readouterr().out
    assert "failed (4): no space left on /tmp/7" in said and "7 failed" in said
    page = read_page(search.project / "report" / PAGE_NAME)
    assert "NaN" in page.words and {trial.id for trial in found.trials} <= set(page.words)
    assert not (search.project / "report" / "best.json").exists()


def test_strange_signs_in_messages(searching, read_page):
    said = 'größer als <script>alert("$x$")</script> & 日本 ÷\nmore, "lines"'
    search = searching()
    search.run(3, by_rate, lambda number: ("failed", "completed", "pruned")[number], lambda number: said)
    found = search.found()
    page = read_page(write_report(found) / PAGE_NAME)
    assert read_page(write_report(found) / PAGE_NAME).source == page.source, "the same every time"
    assert "script" not in page.tags
    assert page.words.count(said.splitlines()[0]) == 2
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert [row["message"] for row in rows] == [said, "", said]


def test_another_place_for_the_files(searching, tmp_path, capsys):
    search, place = searching(), tmp_path / "new" / "place"
    search.run(1, by_rate)
    assert main([str(search.project), "--output", str(place), "--quiet"]) == 0
    assert {path.name for path in place.iterdir()} == {"index.html", "trials.csv", "best.json"}
    assert not (search.project / "report").exists()
    said = capsys.readouterr().out
    assert "rank" not in said and str(place / "best.json") in said
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--output"):
        main([str(search.project), "--output", str(tmp_path / "file" / "below")])


def test_what_is_no_search(tmp_path, capsys):
    assert run_command(main, [str(tmp_path / "none")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "holds no search" in said and "cxr tune" in said
    with pytest.raises(DatasetError, match=r"search\.json"):
        main([str(tmp_path)])


def test_a_report_needs_no_tensorflow(searching):
    search = searching(space=small_space("dropout", "optimizer"))
    search.run(11, by_rate)
    code = f"""import sys
from tuner.tune_report import main
main([{str(search.project)!r}, '--quiet'])
print({{'tensorflow', 'keras', 'keras_tuner', 'jax'}} & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.splitlines()[-1] == "set()" and done.stderr == ""

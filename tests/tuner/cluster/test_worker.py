"""A worker in this process, with a chief that says what the test wants; training is real."""

import dataclasses
import json
import subprocess
import sys
from unittest.mock import Mock

import pytest

from cxr.errors import InputError
from tests.tuner.conftest import REPOSITORY
from tfrecords.dataset import open_dataset
from trainer.run import open_run
from trainer.train_config import TrainConfig
from trainer.training.stopping import StopRequest
from tuner.cluster.protocol import serve
from tuner.cluster.worker import Worker
from tuner.cluster.worker_options import EXIT_RECYCLED, WorkerOptions

CONFIG = TrainConfig(
    model="mlp", image_size=32, model_options={"dense": [16]}, batch_size=16, epochs=4, augment="none",
    warmup_epochs=0.0, learning_rate=1e-3,
)  # fmt: skip


class Script:
    """A chief that hands out given configurations, and answers reports of epochs by a function."""

    def __init__(self, digest, configs, objective="val_auc", answer=lambda rows: {"do": "go on", "reason": ""}):
        self.digest, self.configs, self.objective, self.answer = digest, list(configs), objective, answer
        self.reports, self.ends = [], []

    def join(self, worker, version, digest):
        assert digest == self.digest
        return {"objective": self.objective, "positive": None, "beat_seconds": 0.5, "hang_seconds": 600.0}

    def next(self, worker, process, ended=""):
        given = len(self.ends)
        if given == len(self.configs):
            return {"do": "stop", "reason": ""}
        return {"do": "run", "trial": f"{given:04d}", "config": self.configs[given].to_json()}

    def report(self, worker, process, trial, **fields):
        self.reports.append(fields)
        return self.answer(fields["rows"]) if fields.get("rows") else {"do": "go on", "reason": ""}

    def end(self, worker, process, trial, **fields):
        self.ends.append({"trial": trial, **fields})
        return {}


@pytest.fixture
def work(data, tmp_path):
    """`work(config, ...)`: what a chief was told by a worker that was given these configurations, one after another."""

    def run(*configs, trials=8, **script):
        chief = Script(open_dataset(data).manifest.digest, configs, **script)
        server, port = serve("127.0.0.1:0", {name: getattr(chief, name) for name in ("join", "next", "report", "end")})
        options = WorkerOptions(f"127.0.0.1:{port}", "w", str(data), str(tmp_path), trials=trials)
        chief.status = Worker(options, StopRequest()).work()
        server.stop(0).wait()
        return chief

    return run


def test_a_trial_is_trained_and_told_and_not_trained_again(work, tmp_path):
    chief = work(CONFIG)
    (end,) = chief.ends
    assert end["outcome"] == "completed" and [row["epoch"] for row in end["rows"]] == [1, 2, 3, 4]
    assert end["score"] == max(row["val_auc"] for row in end["rows"])
    assert end["rows"][end["best_epoch"] - 1]["val_auc"] == end["score"]
    assert end["parameters"] > 32 * 32 * 16 and end["seconds"] > 0
    told = [row for fields in chief.reports for row in fields.get("rows", ())]
    assert [row["epoch"] for row in told] == [1, 2, 3, 4]
    assert open_run(tmp_path / "runs" / "0000").state == "finished"
    assert chief.status == 0

    history = tmp_path / "runs" / "0000" / "history.csv"
    before = history.stat().st_mtime_ns
    again = work(CONFIG)
    assert (again.ends[0]["rows"], again.ends[0]["score"]) == (end["rows"], end["score"])
    assert history.stat().st_mtime_ns == before
    assert not any(fields.get("rows") for fields in again.reports)


def test_a_trial_that_the_chief_prunes_stops_after_that_epoch_and_is_scored(work, tmp_path):
    def answer(rows):
        return {"do": "prune" if rows[-1]["epoch"] >= 2 else "go on", "reason": "it is bad"}

    (end,) = work(CONFIG, answer=answer).ends
    assert (end["outcome"], end["message"], len(end["rows"])) == ("pruned", "it is bad", 2)
    assert end["score"] == max(row["val_auc"] for row in end["rows"])
    assert open_run(tmp_path / "runs" / "0000").state == "running"
    assert not open_run(tmp_path / "runs" / "0000").last_checkpoint.exists()  # nobody resumes it


def test_a_trial_that_is_pruned_under_an_objective_of_shifts_is_scored_by_that(work):
    (end,) = work(CONFIG, objective="worst_auc", answer=lambda rows: {"do": "prune", "reason": "bad"}).ends
    assert end["outcome"] == "pruned" and len(end["rows"]) == 1
    assert end["score"] <= end["rows"][0]["val_auc"] + 1e-9


def test_a_trial_that_was_given_to_another_is_left(work):
    (end,) = work(CONFIG, answer=lambda rows: {"do": "leave", "reason": "given to another"}).ends
    assert end["outcome"] == "released" and "score" not in end


def test_a_trial_is_left_for_later_where_the_chief_can_write_no_more(work, tmp_path):
    (end,) = work(CONFIG, answer=Mock(side_effect=InputError("the disk is full"))).ends
    assert end["outcome"] == "released"
    assert open_run(tmp_path / "runs" / "0000").last_checkpoint.exists()


def test_a_trial_that_another_process_has_still_is_waited_for(work, tmp_path):
    """As of a worker that lost it, and does not know yet."""
    holder = (
        f"import time; from pathlib import Path; from trainer.run import locked\n"
        f"with locked(Path({str(tmp_path / 'runs' / '0000')!r})): print('held', flush=True); time.sleep(1)"
    )
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.stdout.readline() == b"held\n"
        (end,) = work(CONFIG).ends
        assert process.wait() == 0
    assert end["outcome"] == "completed"


def test_trials_that_diverge_or_cannot_be_fail_with_their_reasons_and_the_next_one_runs(work):
    # nothing keeps the pixels of an image apart from a rate of 1e30
    bad = dataclasses.replace(CONFIG, learning_rate=1e30, optimizer="sgd", schedule="constant")
    ends = work(bad, dataclasses.replace(CONFIG, batch_size=4096), dataclasses.replace(CONFIG, epochs=1)).ends
    assert [end["outcome"] for end in ends] == ["failed", "failed", "completed"]
    assert "not finite" in ends[0]["message"] and "fewer than a batch" in ends[1]["message"]


def test_what_is_left_of_something_else_is_not_resumed_and_a_process_runs_so_many_trials_and_no_more(work, tmp_path):
    short = dataclasses.replace(CONFIG, epochs=1)
    chief = work(short, dataclasses.replace(short, seed=5), short, trials=2)
    assert len(chief.ends) == 2 and chief.status == EXIT_RECYCLED
    files = [tmp_path / "runs" / trial / "run.json" for trial in ("0000", "0001")]
    files[0].write_text("{")  # damaged; the other is of another configuration

    again = work(*[dataclasses.replace(CONFIG, epochs=2)] * 2)
    assert [(end["outcome"], len(end["rows"])) for end in again.ends] == [("completed", 2)] * 2
    assert [json.loads(file.read_text())["config"]["seed"] for file in files] == [0, 0]


def test_loss_is_better_where_it_is_less(work):
    (end,) = work(dataclasses.replace(CONFIG, monitor="val_loss"), objective="val_loss").ends
    assert end["score"] == min(row["val_loss"] for row in end["rows"])

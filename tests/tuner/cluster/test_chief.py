"""The chief's book-keeping, asked as workers ask it; training is left out, KerasTuner's oracles are real."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from keras_tuner import HyperParameters
from keras_tuner.engine.trial import Trial

from cxr.errors import CxrError, InputError
from tuner.cluster.chief import Chief
from tuner.cluster.protocol import VERSION
from tuner.results import read_search, write_search_file
from tuner.search_config import SearchConfig
from tuner.space.space import Space

DIGEST = "d" * 64
SPACE = Space.named("compact").fix({
    "model": "mlp", "image_size": 64, "layers": 1, "units": 64, "augment": "none", "normalize": "image", "ema": 0.0,
    "class_weights": "none", "label_smoothing": 0.0, "activation": "relu",
})  # fmt: skip
"""Few hyperparameters are left: the oracles are quick with these."""


@pytest.fixture
def make(tmp_path):
    """`make(resume=False, lease_seconds=60, **settings)`: a chief with the project `tmp_path/search`."""

    def make_chief(resume=False, lease_seconds=60.0, **settings):
        defaults = {"oracle": "random", "max_trials": 4, "epochs": 3, "pruner": "none", "space": SPACE}
        config = SearchConfig(data="data", project=str(tmp_path / "search"), **{**defaults, **settings})
        (tmp_path / "search").mkdir(exist_ok=True)
        write_search_file(tmp_path / "search", {"settings": config.to_json(), "data": {}, "state": "running"})
        logs.append((chief := Chief(config, DIGEST, resume=resume, lease_seconds=lease_seconds)).log)
        return chief

    logs = []
    yield make_chief
    for log in logs:
        log.close()


def rows(*values):
    return [{"epoch": number + 1, "val_auc": value, "images_per_second": 100.0} for number, value in enumerate(values)]


def finish(chief, worker, trial, *values, process="p", **fields):
    answer = {"outcome": "completed", "score": max(values, default=None), "best_epoch": 1, "rows": rows(*values)}
    return chief.end(worker, process, trial, **{**answer, **fields})


def keep_looking(chief, seconds):
    """Looks around as a search does, often."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        chief.look_around()
        time.sleep(0.01)


def run_all(chief, score=lambda trial: 0.5 + int(trial) / 100, worker="w"):
    """Runs what is left, one trial after the other; returns their ids."""
    done = []
    while (task := chief.next(worker, "p"))["do"] == "run":
        finish(chief, worker, task["trial"], score(task["trial"]))
        done.append(task["trial"])
    assert task["do"] == "stop"
    return done


@pytest.mark.parametrize("oracle", ["random", "hyperband"])
def test_a_search_ends_when_its_trials_are_done(make, tmp_path, oracle):
    chief = make(oracle=oracle, max_trials=None if oracle == "hyperband" else 9)
    done = run_all(chief)
    assert chief.state == "complete"
    assert len(done) == chief.planned_trials
    found = read_search(tmp_path / "search")
    assert [trial.id for trial in found.trials] == done
    assert found.best.id == max(done)
    assert found.best.score == 0.5 + int(max(done)) / 100
    assert all(trial.config["model"] == "mlp" for trial in found.trials)


def test_a_grid_search_ends_with_every_combination(make):
    space = Space.named("compact").fix({"model": "mlp", "optimizer": "adam"})
    values = {each.name: each.samples[0] for each in space.parameters if each.name not in ("equalize", "augment")}
    chief = make(oracle="grid", max_trials=None, space=space.fix(values))
    assert len(run_all(chief)) == chief.planned_trials == 6
    assert len({(r.config["equalize"], r.config["augment"]) for r in chief.records.values()}) == 6


def test_a_grid_is_searched_by_many_workers_at_once(make):
    chief = make(oracle="grid", max_trials=6)
    tasks = [chief.next(f"w{number}", "p") for number in range(6)]
    assert [task["do"] for task in tasks] == ["run"] * 6
    assert len({json.dumps(task["config"]) for task in tasks}) == 6


def test_two_workers_never_have_the_same_trial(make):
    chief = make(max_trials=30)
    got = []

    def work(name):
        while (task := chief.next(name, name))["do"] != "stop":
            if task["do"] == "run":
                got.append(task["trial"])
                finish(chief, name, task["trial"], 0.5, process=name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [f"w{number}" for number in range(8)]))
    assert sorted(got) == [f"{number:04d}" for number in range(30)]


def test_a_question_that_is_asked_again_gets_the_same_trial(make):
    chief = make()
    first = chief.next("w", "p")
    assert chief.next("w", "p") == first
    assert chief.records[first["trial"]].attempts == 1


def test_an_end_that_is_told_twice_counts_once(make):
    chief = make()
    trial = chief.next("w", "p")["trial"]
    finish(chief, "w", trial, 0.7)
    finish(chief, "w", trial, 0.1)
    assert chief.oracle.trials[trial].score == 0.7
    assert chief.oracle.end_order == [trial]


def test_a_worker_that_was_restarted_gets_its_trial_again(make):
    chief = make()
    first = chief.next("w", "p")
    again = chief.next("w", "q", ended="it was killed by SIGKILL")
    assert (again["trial"], again["config"]) == (first["trial"], first["config"])
    assert chief.records[first["trial"]].losses == ["it was killed by SIGKILL"]
    assert finish(chief, "w", first["trial"], 0.9, process="p") == {}
    assert chief.oracle.trials[first["trial"]].score is None  # its first process has no say any more
    finish(chief, "w", first["trial"], 0.8, process="q")
    assert chief.oracle.trials[first["trial"]].score == 0.8


def test_a_silent_worker_loses_its_trial_to_another(make):
    chief = make(lease_seconds=0.2)
    trial = chief.next("w", "p")["trial"]
    for _ in range(4):
        time.sleep(0.1)
        assert chief.report("w", "p", trial)["do"] == "go on"
        chief.look_around()
    keep_looking(chief, 0.4)
    assert not chief.leases
    assert chief.next("other", "o")["trial"] == trial
    assert chief.report("w", "p", trial)["do"] == "leave"
    assert "silent" in chief.records[trial].losses[0]


def test_a_chief_that_was_deaf_for_a_while_takes_nobodys_trial(make):
    """While the oracle thinks, signs of life wait; that is not silence."""
    chief = make(lease_seconds=0.4)
    trial = chief.next("w", "p")["trial"]
    chief.look_around()
    with chief._lock:
        time.sleep(1.0)
    chief.look_around()
    assert chief.leases["w"].trial == trial


def test_epochs_of_an_attempt_whose_weights_are_lost_do_not_count(make, tmp_path):
    chief = make()
    trial = chief.next("w", "p")["trial"]
    for row in rows(0.6, 0.7, 0.95):
        chief.report("w", "p", trial, rows=[row])
    assert chief.next("w", "q")["trial"] == trial  # started again, on a host that has nothing of it
    for row in rows(0.5, 0.55):
        chief.report("w", "q", trial, rows=[row])
    assert chief.records[trial].series("val_auc") == [0.5, 0.55]
    finish(chief, "w", trial, 0.5, 0.55, process="q", best_epoch=2, outcome="pruned", message="bad")
    found = read_search(tmp_path / "search").trials[0]
    assert (found.score, found.best_epoch) == (0.55, 2)


@pytest.mark.parametrize("outcome", ["lost", "released"])
def test_a_trial_that_is_given_back_twice_is_given_back_once(make, tmp_path, outcome):
    chief = make(max_attempts=2)
    trial = chief.next("w", "p")["trial"]
    assert read_search(tmp_path / "search").trials[0].status == "running"
    for _ in range(3):
        chief.end("w", "p", trial, outcome, message="its disk broke", seconds=5.0)
    assert chief.oracle.waiting == [trial]
    assert chief.records[trial].seconds == 5.0
    assert len(chief.records[trial].losses) == (outcome == "lost")
    assert read_search(tmp_path / "search").trials[0].status == "waiting"


def test_a_silent_worker_that_comes_back_before_another_takes_its_trial_keeps_it(make):
    chief = make(lease_seconds=0.2)
    trial = chief.next("w", "p")["trial"]
    keep_looking(chief, 0.4)
    assert chief.oracle.waiting == [trial]
    assert chief.report("w", "p", trial, rows=rows(0.6))["do"] == "go on"
    assert chief.oracle.waiting == []
    finish(chief, "w", trial, 0.6)
    assert chief.oracle.trials[trial].score == 0.6


def test_a_trial_that_kills_its_workers_fails_and_the_search_goes_on(make, tmp_path):
    chief = make(max_attempts=3, max_trials=2)
    trial = chief.next("w", "0")["trial"]
    for process in "12":
        assert chief.next("w", process, ended="it was killed by SIGKILL")["trial"] == trial
    other = chief.next("w", "3", ended="it was killed by SIGSEGV")["trial"]
    assert other != trial
    failed = read_search(tmp_path / "search").trials[0]
    assert failed.status == "failed"
    assert failed.message == "3 workers could not finish it, the last: it was killed by SIGSEGV"
    finish(chief, "w", other, 0.5, process="3")
    assert run_all(chief) == []
    assert chief.state == "complete"


def test_a_worker_that_is_asked_to_stop_does_not_count_against_its_trial(make):
    chief = make(max_attempts=1)
    for process in "0123":
        trial = chief.next("w", process)["trial"]
        chief.end("w", process, trial, "released")
    assert trial == "0000"
    assert chief.records[trial].losses == []


def test_failed_trials_have_reasons_and_do_not_end_the_search(make, tmp_path):
    chief = make(max_trials=6, max_failures=3)
    for number in range(6):
        trial = chief.next("w", "p")["trial"]
        if number % 3 == 2:
            finish(chief, "w", trial, 0.5)
        else:
            chief.end("w", "p", trial, "failed", message="the loss is not finite since step 3")
    assert chief.next("w", "p")["do"] == "stop"
    assert chief.state == "complete"
    trials = read_search(tmp_path / "search").trials
    assert [trial.status for trial in trials].count("failed") == 4
    assert trials[0].message == "the loss is not finite since step 3"


def test_so_many_failures_in_a_row_end_the_search_and_say_why(make):
    chief = make(max_trials=9, max_failures=3)
    for _ in range(3):
        assert chief.state == "running"
        chief.end("w", "p", chief.next("w", "p")["trial"], "failed", message="out of memory")
    assert chief.state == "failed"
    assert "3 trials in a row failed" in chief.reason and "out of memory" in chief.reason
    assert chief.next("w", "p") == {"do": "stop", "reason": chief.reason}


@pytest.mark.parametrize("score", [None, float("nan")])
def test_a_score_that_is_no_number_is_a_failure(make, score):
    chief = make()
    trial = chief.next("w", "p")["trial"]
    chief.end("w", "p", trial, "completed", score=score)
    assert chief.oracle.trials[trial].status == "FAILED"
    assert "val_auc was not a number" in chief.records[trial].message


def test_no_trial_is_given_out_while_the_last_ones_run_and_one_of_these_can_still_be_taken_over(make):
    chief = make(max_trials=1)
    trial = chief.next("a", "p")["trial"]
    assert chief.next("b", "q")["do"] == "wait"
    chief.end("a", "p", trial, "lost", message="its disk broke")
    assert chief.next("b", "q")["trial"] == trial
    finish(chief, "b", trial, 0.5, process="q")
    assert chief.next("a", "p")["do"] == "stop"
    assert chief.everybody_knows(but=["b"])
    assert not chief.everybody_knows()


@pytest.mark.parametrize("oracle", ["random", "bayesian", "grid", "hyperband"])
def test_a_chief_that_was_killed_goes_on_without_running_a_finished_trial_again(make, tmp_path, oracle):
    few = {
        "optimizer": "sgd",
        "schedule": "constant",
        "batch_size": 16,
        "equalize": False,
    }  # quick for a Gaussian process
    how = {"oracle": oracle, "max_trials": None if oracle == "hyperband" else 6, "space": SPACE.fix(few)}
    chief = make(**how)
    done = []
    for number in range(4):
        task = chief.next("w", "p")
        finish(chief, "w", task["trial"], 0.5 + number / 10)
        done.append(task["trial"])
    begun = chief.next("w", "p")["trial"]
    chief.report("w", "p", begun, epoch=1, rows=rows(0.55))
    del chief  # nothing is said to it: as killed

    second = make(resume=True, **how)
    assert read_search(tmp_path / "search").trials[-1].status == "waiting"
    assert second.records[begun].series("val_auc") == [0.55]
    assert second.next("w", "q")["trial"] == begun
    finish(second, "w", begun, 0.6, process="q")
    later = run_all(second)
    assert not set(later) & {*done, begun}
    assert second.state == "complete"
    assert len(read_search(tmp_path / "search").trials) == 5 + len(later)


def test_a_worker_keeps_its_trial_over_a_restart_of_the_chief(make):
    chief = make()
    trial = chief.next("w", "p")["trial"]
    del chief
    second = make(resume=True)
    assert second.report("w", "p", trial, epoch=1, rows=rows(0.5))["do"] == "go on"
    assert second.next("other", "o")["trial"] != trial


@pytest.mark.parametrize("moment", ["trial made, oracle not", "trial ended, oracle not", "record alone ended"])
def test_a_chief_killed_between_two_files_loses_no_trial_and_runs_none_twice(make, tmp_path, moment):
    chief = make(max_trials=3)
    project = tmp_path / "search"
    if moment == "trial made, oracle not":
        finish(chief, "w", chief.next("w", "p")["trial"], 0.5)
        before = (project / "oracle.json").read_text()
        chief.next("w", "p")
    else:
        trial = chief.next("w", "p")["trial"]
        before = (project / "oracle.json").read_text()
        made = (project / "trial_0000" / "trial.json").read_text()
        finish(chief, "w", trial, 0.5)
        if moment == "record alone ended":
            (project / "trial_0000" / "trial.json").write_text(made)
    (project / "oracle.json").write_text(before)
    second = make(resume=True, max_trials=3)
    assert second.oracle.end_order == ["0000"]
    assert run_all(second) == ["0001", "0002"]
    assert second.oracle.end_order == ["0000", "0001", "0002"]


def test_what_an_oracle_raises_does_not_lock_it(make):
    chief = make()
    with pytest.raises(KeyError), chief._at_work():
        chief.oracle.end_trial(Trial(HyperParameters(), trial_id="9999"))
    done = []
    thread = threading.Thread(target=lambda: done.append(chief.next("w", "p")["do"]), daemon=True)
    thread.start()
    thread.join(20)
    assert done == ["run"]


def test_a_disk_that_cannot_be_written_ends_the_search_and_keeps_what_was_there(make, tmp_path):
    chief = make()
    finish(chief, "w", chief.next("w", "p")["trial"], 0.5)
    kept = (tmp_path / "search" / "oracle.json").read_text()
    (tmp_path / "search" / "trial_0001").write_text("a file where a folder should be")
    with pytest.raises(CxrError, match="cannot be written"):
        chief.next("w", "p")
    assert chief.state == "failed"
    assert json.loads((tmp_path / "search" / "oracle.json").read_text())["end_order"] == ["0000"]
    assert json.loads(kept)["end_order"] == ["0000"]
    assert chief.next("w", "p")["do"] == "stop"


@pytest.mark.parametrize("oracle, first", [("random", 2), ("hyperband", None)])
def test_more_trials_can_be_asked_for_afterwards(make, oracle, first):
    done = run_all(make(oracle=oracle, max_trials=first))
    more = make(oracle=oracle, max_trials=len(done) + 4, resume=True)
    assert more.planned_trials == len(done) + 4
    assert run_all(more) == [f"{number:04d}" for number in range(len(done), len(done) + 4)]


def test_hyperband_gives_the_best_more_epochs(make, tmp_path):
    chief = make(oracle="hyperband", epochs=9, max_trials=None)
    run_all(chief, lambda trial: 0.9 if trial == "0003" else 0.5)
    first = chief.records["0003"].config
    configs = [record.config for record in chief.records.values()]
    copies = [config["epochs"] for config in configs if {**config, "epochs": 0} == {**first, "epochs": 0}]
    assert copies[0] == 1 and sorted(copies) == copies and max(copies) > 1
    assert {config["epochs"] for config in configs} == {1, 3, 9}
    found = read_search(tmp_path / "search")
    assert len(found.ranked) == len(chief.records) > len(found.distinct())
    assert len({json.dumps(dict(trial.values)) for trial in found.distinct()}) == len(found.distinct())
    assert found.distinct()[0] == found.best


def test_a_bad_trial_is_pruned_in_comparison_with_the_others(make, tmp_path):
    chief = make(max_trials=8, pruner="median")
    for number in range(6):
        trial = chief.next("w", "p")["trial"]
        assert [chief.report("w", "p", trial, rows=[row])["do"] for row in rows(0.7, 0.8)] == ["go on"] * 2
        finish(chief, "w", trial, 0.7, 0.8, 0.8 + number / 100)
    trial = chief.next("w", "p")["trial"]
    assert chief.report("w", "p", trial, rows=rows(0.4)[:1])["do"] == "go on"
    answer = chief.report("w", "p", trial, rows=rows(0.4, 0.41)[1:])
    assert answer["do"] == "prune" and "0.41" in answer["reason"]
    finish(chief, "w", trial, 0.4, 0.41, outcome="pruned", message=answer["reason"])
    found = read_search(tmp_path / "search").trials[-1]
    assert (found.status, found.score, found.message) == ("pruned", 0.41, answer["reason"])
    assert chief.oracle.trials[trial].status == "COMPLETED"  # the oracle learns from it


@pytest.mark.parametrize(
    "objective, direction, values, score",
    [("val_loss", "min", (0.9, 0.3, 0.5), 0.3), ("worst_auc", "max", (0.8, 0.9, 0.85), 0.61)],
)
def test_a_trial_has_the_score_that_its_worker_told(make, tmp_path, objective, direction, values, score):
    chief = make(objective=objective)
    history = [{"epoch": epoch, chief.config.goal.monitor: value} for epoch, value in enumerate(values, 1)]
    chief.end("w", "p", chief.next("w", "p")["trial"], "completed", score=score, best_epoch=2, rows=history)
    found = read_search(tmp_path / "search")
    assert (found.best.score, found.best.best_epoch, found.direction) == (score, 2, direction)
    assert (chief.oracle.trials["0000"].score, chief.oracle.trials["0000"].best_step) == (score, 2)


def test_a_worker_of_another_version_or_with_other_data_is_refused(make):
    chief = make()
    assert chief.join("w", VERSION, DIGEST)["objective"] == "val_auc"
    with pytest.raises(InputError, match="another data set"):
        chief.join("w", VERSION, "e" * 64)
    with pytest.raises(InputError, match="install the same"):
        chief.join("w", VERSION + 1, DIGEST)

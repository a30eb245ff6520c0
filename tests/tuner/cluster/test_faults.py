"""What a search survives, with real processes: its workers, its chief, another search, the disk, and its user."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.tuner.conftest import PATIENCE, none_left, processes_naming
from trainer.run import open_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
RANDOM = ("--oracle", "random", "--pruner", "none")
EPOCHS = 30  # of a trial: some seconds


def training(search):
    """A trial that has done an epoch and not its last; None where there is none."""
    for trial in search.trials:
        if trial.status == "running" and 0 < len(trial.history) < trial.epochs - 5:
            return trial
    return None


def learned(trial, epochs=None):
    """What does not depend on the clock of the first epochs of a trial."""
    return [{name: row[name] for name in ("epoch", "loss", "val_loss", "val_auc")} for row in trial.history[:epochs]]


def check_complete(tuning, trials, epochs=EPOCHS):
    """The search has ended with every trial whole, and nothing of it runs any more."""
    assert tuning.wait() == 0, tuning.said()
    search = tuning.found()
    assert search.state == "complete"
    assert [trial.status for trial in search.trials] == ["completed"] * trials
    for trial in search.trials:
        assert [row["epoch"] for row in trial.history] == list(range(1, epochs + 1))
    assert none_left(str(tuning.project))
    return search


def test_a_worker_that_is_killed_in_a_trial(tune):
    tuning = tune(*RANDOM, "--max-trials", 2, "--epochs", EPOCHS, "--workers", 2)
    trial = tuning.until(training, "a trial under way")
    os.kill(tuning.workers()[trial.worker], signal.SIGKILL)
    search = check_complete(tuning, 2)
    again = next(found for found in search.trials if found.id == trial.id)
    assert again.attempts == 2
    assert learned(again, len(trial.history)) == learned(trial)  # resumed or started again: the same either way
    assert "SIGKILL" in tuning.said()


def test_a_chief_that_is_killed_and_the_search_resumed(tune):
    tuning = tune(*RANDOM, "--max-trials", 4, "--epochs", EPOCHS, "--workers", 2)
    finished = tuning.until(lambda search: [t for t in search.trials if t.status == "completed"], "a finished trial")
    tuning.until(training, "a trial under way")
    os.kill(tuning.process.pid, signal.SIGKILL)
    tuning.wait()
    assert none_left(str(tuning.project)), "the workers outlived their chief"
    assert tuning.found().state == "running"

    search = check_complete(tune("--resume", "--workers", 2), 4)
    for before in finished:
        after = next(trial for trial in search.trials if trial.id == before.id)
        assert (after.attempts, after.seconds, after.history) == (before.attempts, before.seconds, before.history)


def test_a_worker_that_hangs_is_replaced(tune):
    tuning = tune(*RANDOM, "--max-trials", 2, "--epochs", EPOCHS, "--workers", 2, "--lease-seconds", 4)
    trial = tuning.until(training, "a trial under way")
    os.kill(tuning.workers()[trial.worker], signal.SIGSTOP)
    search = check_complete(tuning, 2)
    assert next(found for found in search.trials if found.id == trial.id).attempts == 2
    assert "silent" in tuning.said()


def test_a_worker_without_progress_gives_its_trial_back(tune):
    limits = ("--max-attempts", 2, "--lease-seconds", 4)
    # shorter than a step: seen at each heartbeat, every second
    tuning = tune(*RANDOM, "--max-trials", 1, "--epochs", EPOCHS, *limits, "--hang-seconds", 1e-6)
    assert tuning.wait() == 0, tuning.said()
    (trial,) = tuning.found().trials
    assert trial.status == "failed"
    assert "no progress for 0 s" in trial.message
    assert none_left(str(tuning.project))


def test_two_searches_on_one_project(tune):
    first = tune(*RANDOM, "--max-trials", 50, "--epochs", EPOCHS)
    first.until(lambda search: search.trials, "a trial")
    for arguments in (["--resume"], [*RANDOM, "--overwrite"]):
        second = tune(*arguments)
        assert second.wait() == 1
        assert "another process runs the search" in second.said()
    assert first.process.poll() is None
    assert first.found().trials


def test_a_search_that_is_asked_to_stop(tune):
    tuning = tune(*RANDOM, "--max-trials", 3, "--epochs", EPOCHS, "--workers", 2)
    trial = tuning.until(training, "a trial under way")
    os.kill(tuning.process.pid, signal.SIGTERM)
    assert tuning.wait() == 128 + signal.SIGTERM
    assert not processes_naming(str(tuning.project)), "a process was left behind"
    assert "--resume` continues" in tuning.said()
    stopped = tuning.found()
    assert stopped.state == "stopped"
    assert {found.status for found in stopped.trials} <= {"waiting", "completed"}

    search = check_complete(tune("--resume", "--workers", 2), 3)
    after = next(found for found in search.trials if found.id == trial.id)
    assert learned(after, len(trial.history)) == learned(trial)


def test_ctrl_c_before_the_first_trial(tune):
    tuning = tune(*RANDOM, "--max-trials", 3)
    tuning.until(lambda search: tuning.workers(), "a worker")
    os.kill(tuning.process.pid, signal.SIGINT)
    assert tuning.wait() == 130, tuning.said()
    assert not processes_naming(str(tuning.project))


def test_a_worker_that_cannot_start_ends_the_search_and_says_why(tune, data, tmp_path):
    tuning = tune(*RANDOM, "--max-trials", 2, "--epochs", EPOCHS)
    tuning.until(training, "a trial under way")
    manifest = data / "manifest.json"
    content = manifest.read_bytes()
    try:
        manifest.write_text("no longer a manifest")
        os.kill(tuning.workers()["worker-0"], signal.SIGKILL)
        assert tuning.wait() == 1
    finally:
        manifest.write_bytes(content)
    assert "ended 4 times without a trial" in tuning.said()
    assert "manifest" in tuning.found().reason
    assert none_left(str(tuning.project))
    check_complete(tune("--resume"), 2)


def test_a_disk_that_is_full(tune, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        tuning = tune(*RANDOM, "--max-trials", 40, "--epochs", 3, project="small/search")
        assert tuning.wait() == 1, tuning.said()
        assert "--resume` continues" in tuning.said()
        assert "disk is full" in tuning.said() or "No space left" in tuning.said()
        found = tuning.found()
        done = [trial.id for trial in found.trials if trial.status == "completed"]
        assert len(done) < 40
        assert none_left(str(tuning.project))
        subprocess.run(["mount", "-o", "remount,size=200m", str(small)], check=True)
        trials = len(found.trials) + 1
        check_complete(tune("--resume", "--max-trials", trials, project="small/search"), trials, 3)
    finally:
        for _tries in range(50):
            if subprocess.run(["umount", str(small)], capture_output=True).returncode == 0:
                break
            time.sleep(0.1)


def test_memory_is_given_back_by_new_processes(tune):
    tuning = tune(*RANDOM, "--max-trials", 3, "--epochs", 1, "--worker-trials", 2)
    pids = set()
    while tuning.process.poll() is None:
        pids |= set(tuning.workers().values())
        time.sleep(0.05)
    check_complete(tuning, 3, 1)
    assert len(pids) == 2


def test_chief_and_workers_apart(tune, tmp_path, data):
    """As on two hosts that share nothing but the data set; the chief is killed and restarted."""
    chief = tune(*RANDOM, "--max-trials", 2, "--epochs", EPOCHS, "--role", "chief", "--bind", "127.0.0.1:0")
    address = chief.until(lambda _: chief.said().partition("--role worker --chief ")[2].split(" ")[0], "an address")
    worker = subprocess.Popen(
        [sys.executable, "-m", "tuner.tune", "--role", "worker", "--chief", address, "--data", str(data),
         "--project", str(tmp_path / "elsewhere"), "--workers", "1", "--quiet"],
        stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        trial = chief.until(training, "a trial under way")
        os.kill(chief.process.pid, signal.SIGKILL)
        chief.wait()
        again = tune("--resume", "--role", "chief", "--bind", address)
        search = check_complete(again, 2)
        assert next(found for found in search.trials if found.id == trial.id).attempts == 1  # its worker kept at it
        assert worker.wait(PATIENCE) == 0
        assert none_left(str(tmp_path / "elsewhere"))
        assert (tmp_path / "elsewhere" / "runs" / trial.id / "run.json").exists()
    finally:
        worker.kill()
        worker.wait()


def test_a_trial_can_be_repeated_alone(tune, tmp_path, data):
    tuning = tune(*RANDOM, "--max-trials", 1, "--epochs", 3)
    (trial,) = check_complete(tuning, 1, 3).trials
    config, run = tmp_path / "alone.json", tmp_path / "alone"
    config.write_text(json.dumps(trial.config))
    subprocess.run(
        [sys.executable, "-m", "trainer.train", "--data", str(data), "--run", str(run), "--config", str(config)],
        check=True, capture_output=True,
    )  # fmt: skip
    for row, repeated in zip(trial.history, open_run(run).read_history(), strict=True):
        for name in ("loss", "val_loss", "val_auc"):
            assert row[name] == pytest.approx(repeated[name], rel=1e-6)

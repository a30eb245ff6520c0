"""Workers' processes and their shares of the host; stand-ins take the place of training where that is not the point."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxr.errors import TrainingError
from tuner.cluster import supervisor as module
from tuner.cluster.host import find_gpus, limit_cores, share_cores
from tuner.cluster.processes import describe_status, last_lines
from tuner.cluster.supervisor import Supervisor, worker_names
from tuner.cluster.worker import describe_error
from tuner.cluster.worker_options import EXIT_HUNG, WorkerOptions


@pytest.mark.parametrize(
    "workers, expected",
    [(1, [(0, 1, 2, 3)]), (2, [(0, 1), (2, 3)]), (3, [(0,), (1, 2), (3,)]), (4, [(0,), (1,), (2,), (3,)]),
     (6, [(0,), (1,), (2,), (3,), (0,), (1,)])],
)  # fmt: skip
def test_cores_are_dealt_out(monkeypatch, workers, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert share_cores(workers) == expected


@pytest.mark.parametrize("visible, expected", [("0,1", ["0", "1"]), ("", []), ("-1", []), ("GPU-abc", ["GPU-abc"])])
def test_gpus_that_may_be_used(monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_gpus() == expected


def test_each_worker_has_a_gpu_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    options = WorkerOptions("127.0.0.1:9", "", "data", str(tmp_path))
    made = Supervisor(worker_names(3), options, 60.0, print)
    assert [child.gpu for child in made.children] == ["0", "1", "0"]


def test_a_process_is_kept_to_its_cores():
    code = (
        "import os; from cxr.machine import usable_cores; from tuner.cluster.host import limit_cores; "
        "limit_cores((min(os.sched_getaffinity(0)),)); print(usable_cores(), os.environ['TF_NUM_INTRAOP_THREADS'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
    limit_cores(())  # this process keeps what it has


@pytest.mark.parametrize(
    "status, text", [(-9, "SIGKILL"), (-11, "SIGSEGV"), (EXIT_HUNG, "no progress"), (3, "exit status 3")]
)
def test_how_a_process_ended_is_said(status, text):
    assert text in describe_status(status)


class Stand:
    """A supervisor whose workers run a piece of Python that is given `pipe`."""

    def __init__(self, monkeypatch, tmp_path, code, workers=1, lease_seconds=60.0):
        script = tmp_path / "stand_in.py"
        script.write_text(f"import json, os, sys, time, signal\npipe = json.loads(sys.argv[-1])['pipe']\n{code}")
        fake = tmp_path / "python"
        fake.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
        fake.chmod(0o755)
        monkeypatch.setattr(module.sys, "executable", str(fake))
        self.said = []
        options = WorkerOptions("127.0.0.1:9", "", "data", str(tmp_path))
        self.supervisor = Supervisor(worker_names(workers), options, lease_seconds, self.said.append)

    def until(self, condition, seconds=30.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.said
            self.supervisor.look_after()
            time.sleep(0.02)


@pytest.fixture
def stand(monkeypatch, tmp_path):
    made = []

    def make(code, **options):
        made.append(Stand(monkeypatch, tmp_path, code, **options))
        return made[-1]

    yield make
    for each in made:
        each.supervisor.stop(0.1)


def test_workers_that_are_done_are_not_replaced(stand):
    made = stand("os.write(pipe, b't')", workers=3)
    made.until(lambda: not made.supervisor.alive)
    assert made.said == []


def test_a_worker_that_was_recycled_is_replaced_at_once_and_in_silence(stand, tmp_path):
    made = stand(f"ran = {str(tmp_path / 'ran')!r}\nbefore = os.path.exists(ran)\n"
                 "print('ran', file=open(ran, 'a'))\nsys.exit(0 if before else 75)")  # fmt: skip
    made.until(lambda: not made.supervisor.alive)
    assert made.said == []
    assert (tmp_path / "ran").read_text() == "ran\nran\n"


def test_a_worker_that_is_silent_is_killed_and_replaced(stand, tmp_path):
    made = stand(
        f"os.write(pipe, b'.t')\nflag = {str(tmp_path / 'second')!r}\n"
        "if os.path.exists(flag): sys.exit(0)\nopen(flag, 'w').close()\ntime.sleep(600)",
        lease_seconds=1.0,
    )
    made.until(lambda: not made.supervisor.alive)
    assert "was silent for" in made.said[0]


def test_one_that_lives_is_left_alone(stand):
    made = stand("for _ in range(12):\n    os.write(pipe, b'.'); time.sleep(0.2)", lease_seconds=1.0)
    made.until(lambda: not made.supervisor.alive)
    assert made.said == []


def test_one_that_cannot_work_ends_it_with_the_end_of_its_log(stand, monkeypatch):
    monkeypatch.setattr(module, "MAX_BARREN", 1)  # each start waits twice as long as the one before
    made = stand("print('there is no libfoo.so'); sys.exit(1)")
    with pytest.raises(TrainingError, match=r"ended 2 times without a trial(.|\n)*no libfoo\.so"):
        made.until(lambda: False, 60.0)


def test_all_are_stopped_in_time_even_those_that_do_not_listen(stand):
    made = stand("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.write(pipe, b'.')\ntime.sleep(600)", workers=2)
    made.until(lambda: all(child.spoke for child in made.supervisor.children))
    pids = [child.process.pid for child in made.supervisor.children]
    made.supervisor.stop(1.0)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not made.supervisor.alive


def test_the_end_of_a_log(tmp_path):
    log = tmp_path / "log"
    log.write_text("\n".join(f"line {number}" for number in range(5000)))
    assert last_lines(log, 2) == "  line 4998\n  line 4999"
    assert last_lines(tmp_path / "none") == ""


@pytest.mark.parametrize(
    "error, outcome, fatal",
    [
        (OSError(28, "No space left on device"), "lost", True),
        (RuntimeError("ResourceExhaustedError: No space left on device"), "lost", True),
        (OSError(5, "Input/output error"), "lost", False),
        (ValueError("a bug"), "failed", False),
    ],
)
def test_what_an_error_in_a_trial_means_for_others(error, outcome, fatal):
    told = describe_error(error)
    assert (told["outcome"], told.get("fatal", False)) == (outcome, fatal)
    assert str(error.args[-1]) in told["message"]
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = error
    assert describe_error(wrapped).get("fatal", False) == fatal

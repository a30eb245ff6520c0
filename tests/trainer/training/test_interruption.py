"""Training as a process that is stopped and killed: it goes on in mid-epoch and ends where it would have ended."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cxr.errors import DatasetError
from trainer.run import Run, open_run
from trainer.training.checkpoint import read_state
from trainer.training.loop import train

OPTIONS = {"epochs": 3, "augment": "strong", "equalize": True, "ema": 0.9, "batch_size": 2}


def begin(run: Run, *arguments: str) -> subprocess.Popen:
    """`cxr train --resume` as a process that writes a checkpoint after every step."""
    command = [sys.executable, "-m", "trainer.train", "--run", str(run.root), "--resume", "--quiet",
               "--checkpoint-seconds", "0", *arguments]  # fmt: skip
    return subprocess.Popen(
        command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def done(run: Run) -> tuple[int, int]:
    """(epoch, step) of the last checkpoint."""
    try:
        state = read_state(run.last_checkpoint)
    except DatasetError:
        return (0, 0)
    return state["epoch"], state["step"]


def wait_for(run: Run, process: subprocess.Popen, steps: int) -> None:
    """Until it has done so many steps since now, or ended."""
    start, count = done(run), 0
    while count < steps and process.poll() is None:
        time.sleep(0.01)
        if done(run) != start:
            start, count = done(run), count + 1


def variables(run: Run) -> dict[str, np.ndarray]:
    with np.load(run.last_checkpoint) as arrays:
        return {name: arrays[name] for name in arrays.files if name != "state"}


def assert_same(run: Run, undisturbed: Run) -> None:
    ours, theirs = variables(run), variables(undisturbed)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], name)


@pytest.fixture(scope="module")
def undisturbed(data, start, tmp_path_factory) -> Run:
    run = start(tmp_path_factory.mktemp("undisturbed") / "run", data, **OPTIONS)
    train(run, data, quiet=True)
    return run


@pytest.mark.slow
def test_sigterm_and_sigkill(data, start, undisturbed, tmp_path):
    run = start(tmp_path / "run", data, **OPTIONS)
    process = begin(run)
    wait_for(run, process, 5)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM, said
    assert f"cxr train --run {run.root} --resume` goes on" in said
    stopped = done(run)
    assert stopped > (0, 0)

    process = begin(run)
    wait_for(run, process, 5)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert done(run) > stopped
    assert open_run(run.root).state == "running"

    process = begin(run)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert open_run(run.root).state == "finished"
    assert_same(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_over_and_over(data, start, undisturbed, tmp_path, seed):
    moments = random.Random(seed)
    run = start(tmp_path / "run", data, **OPTIONS)
    for patience in range(8):
        process = begin(run)
        try:
            process.wait(moments.uniform(8, 14) + 2 * patience)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, moments.choice([signal.SIGKILL, signal.SIGTERM]))
        process.communicate()
        if open_run(run.root).state == "finished":
            break
    else:
        assert begin(run).wait(200) == 0
    assert_same(run, undisturbed)

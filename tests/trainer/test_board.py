"""`cxr board` as a process of its own, asked over HTTP."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from cxr.errors import InputError, MissingExtraError
from cxr.events import EventWriter
from trainer.board import Logged, describe, find_logs, main, serve

COMMAND = (sys.executable, "-m", "trainer.board")


@pytest.fixture
def logs(tmp_path):
    """A data set, a run, a search, and logs that name no owner."""
    folders = ("data/tensorboard", "runs/a/tensorboard/train", "runs/a/tensorboard/evaluation/val", "loose")
    for folder in (*folders, "search/trial_0/tensorboard/train"):
        with EventWriter(tmp_path / folder) as events:
            events.scalar("loss", 0.5, 1)
    (tmp_path / "data" / "manifest.json").write_text("{}")
    (tmp_path / "search" / "oracle.json").write_text("{}")
    return tmp_path


@pytest.fixture
def board(tmp_path):
    """Starts `cxr board` with some arguments: the process, its URL and what it printed before."""
    running = []

    def start(*arguments: object) -> tuple[subprocess.Popen, str, list[str]]:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        running.append(process)
        lines = []
        for line in process.stdout:
            if line.startswith("http"):
                return process, line.split()[0], lines
            lines.append(line.rstrip())
        raise AssertionError(process.stderr.read())

    yield start
    for process in running:
        process.kill()
        process.communicate()


def fail(*arguments: object) -> str:
    """What a command that fails says."""
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1, done
    return done.stderr


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read()


def wait_for_runs(url: str, expected: set[str]) -> None:
    deadline = time.monotonic() + 20
    while (found := set(json.loads(get(f"{url}data/runs")))) != expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_what_is_below_a_folder(logs):
    found = [("data set", "data"), ("run", "loose"), ("run", "runs/a"), ("search", "search")]
    assert find_logs(logs) == [Logged(*kind_and_name) for kind_and_name in found]
    assert find_logs(logs / "data") == [Logged("data set", ".")]
    assert find_logs(logs / "runs" / "a" / "tensorboard") == [Logged("run", "evaluation/val"), Logged("run", "train")]
    assert describe(find_logs(logs), logs) == "1 data set: data\n2 runs: loose, runs/a\n1 search: search"
    (logs / "data" / "manifest.json").unlink()  # a job that is not finished
    (logs / "data" / ".work").mkdir()
    assert find_logs(logs)[0] == Logged("data set", "data")


def test_many_runs_are_not_all_named(tmp_path):
    found = [Logged("run", str(number)) for number in range(22)]
    assert describe(found, tmp_path).endswith("18, 19 and 2 more")


def test_it_serves_what_it_says_until_ctrl_c(logs, board):
    process, url, lines = board(logs)
    assert lines == ["1 data set: data", "2 runs: loose, runs/a", "1 search: search"]
    assert url.startswith("http://127.0.0.1:6")
    assert b"<title>TensorBoard</title>" in get(url)
    wait_for_runs(url, {str(path.parent.relative_to(logs)) for path in logs.rglob("*tfevents*")})
    plugins = json.loads(get(f"{url}data/plugins_listing"))
    assert plugins["scalars"]["enabled"]
    assert "pr_curves" in plugins
    assert "libtensorflow" not in Path(f"/proc/{process.pid}/maps").read_text(), "it takes seconds and half a GB"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output.strip(), errors) == (0, "", "")
    with pytest.raises(OSError, match="refused"):
        get(url)


def test_runs_may_begin_later(tmp_path, board):
    process, url, lines = board(tmp_path)
    assert lines == [
        f"note: nothing below {tmp_path} has TensorBoard logs yet; expected e.g. runs/NAME/tensorboard. "
        "They appear as soon as something is logged."
    ]
    assert json.loads(get(f"{url}data/runs")) == []
    with EventWriter(tmp_path / "runs" / "b" / "tensorboard") as events:
        events.scalar("loss", 0.5, 1)
    wait_for_runs(url, {"runs/b/tensorboard"})
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


def test_a_busy_port_is_an_error_only_where_it_was_asked_for(logs, board):
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # another program has it already
            taken.bind(("127.0.0.1", 6006))
            taken.listen()
        _, url, _ = board(logs)
        assert url != "http://127.0.0.1:6006/"
        said = fail(logs, "--port", 6006)
    assert said.startswith("error: --port 6006: another program listens there. Leave --port ")


def test_a_port_of_ones_own_and_a_warning_to_who_listens_to_others(logs, board):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process, url, _ = board(logs, "--host", "0.0.0.0", "--port", port)
    assert url == f"http://{socket.gethostname()}:{port}/"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert errors.startswith("WARNING: 0.0.0.0 can be reached by others, and TensorBoard asks nobody for a password")


def test_what_is_refused(tmp_path):
    with pytest.raises(InputError, match="missing is not a folder"):
        main([str(tmp_path / "missing")])
    with pytest.raises(InputError, match="--port 99999: expected a whole number from 1 to 65535"):
        main([str(tmp_path), "--port", "99999"])
    for host in ("192.0.2.1", "no.such.host.invalid"):
        with pytest.raises(InputError, match=f"--host {host}: .*; expected a name or address of this machine"):
            main([str(tmp_path), "--host", host])


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match="cxr board needs the package 'tensorboard'"):
        serve(tmp_path, "127.0.0.1", None)

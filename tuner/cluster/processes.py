"""Ends processes, and tells how they ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tuner.cluster.worker_options import EXIT_HUNG

GRACE_SECONDS = 15.0
"""Time that processes which are asked to stop have to save their work."""


def end_processes(processes: Sequence[subprocess.Popen[bytes]], grace: float = GRACE_SECONDS) -> None:
    """Asks processes to stop, and kills those that have not after `grace` seconds."""
    for process in processes:
        process.send_signal(signal.SIGTERM)  # does nothing where the process has ended
        process.send_signal(signal.SIGCONT)  # a halted process would not receive the other
    end = time.monotonic() + grace
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end - time.monotonic()))
        if process.poll() is None:
            process.kill()
            process.wait()


def describe_status(status: int) -> str:
    """What an exit status means."""
    if status == EXIT_HUNG:
        return "it made no progress"
    if status >= 0:
        return f"it ended with exit status {status}"
    known = {int(each): each.name for each in signal.Signals}
    name = known.get(-status, f"signal {-status}")
    return f"it was killed by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")


def last_lines(log: Path, count: int = 8) -> str:
    """The end of a log; empty where there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(f"  {line}" for line in lines[-count:])

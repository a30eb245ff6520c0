"""The machine: its cores and memory, and TensorFlow started quietly."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


def usable_cores() -> int:
    """Processor cores that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes of memory that this process could still take without swapping, within its control group (version 2)."""
    available = _entry(Path("/proc/meminfo"), "MemAvailable:", 1024)
    if available is None:  # not Linux
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    for group in _control_groups():
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no limit
            limit, used = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
            reclaimable = _entry(group / "memory.stat", "inactive_file", 1) or 0
            available = min(available, limit - used + reclaimable)
    return max(0, available)


def _control_groups() -> list[Path]:
    """The folders of this process's control group and of all around it, each of which may set a limit."""
    root = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            if line.startswith("0::"):
                own = root / line.removeprefix("0::").lstrip("/")
                return [own, *(place for place in own.parents if place.is_relative_to(root))]
    return [root]


def _entry(path: Path, name: str, unit: int) -> int | None:
    """The number behind a name in a file of `name number` lines, in bytes; None where it is not there."""
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="ascii").splitlines():
            if line.split()[:1] == [name]:
                return int(line.split()[1]) * unit
    return None


def keep_tensorflow_small() -> None:
    """Lets TensorFlow, where it is not loaded yet, leave the GPU alone and say nothing but errors as it starts."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def load_tensorflow_quietly() -> None:
    """Imports TensorFlow and looks for GPUs without what its C++ parts print on standard error meanwhile.

    Those lines (on instruction sets, and CUDA that is not there) come before any level of logging is set, whatever
    TF_CPP_MIN_LOG_LEVEL says. Python's exceptions are raised as ever. Set that variable to 0 to see the lines.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0":
        return
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import tensorflow as tf

        tf.config.list_physical_devices()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)

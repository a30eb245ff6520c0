"""Cores and GPUs of this host, and which worker gets which."""

from __future__ import annotations

import itertools
import os
import subprocess


def share_cores(workers: int) -> list[tuple[int, ...]]:
    """The cores of each worker: all that this process may use, divided evenly; shared where there are too few.

    Empty tuples where the system cannot bind a process to cores.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [()] * workers
    cores = sorted(os.sched_getaffinity(0))
    if not workers or workers >= len(cores):
        return [(cores[worker % len(cores)],) for worker in range(workers)]
    edges = [round(worker * len(cores) / workers) for worker in range(workers + 1)]
    return [tuple(cores[low:high]) for low, high in itertools.pairwise(edges)]


def limit_cores(cores: tuple[int, ...]) -> None:
    """Binds this process, and every library that asks how many threads to start, to some cores; to all if empty."""
    if not cores:
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(len(cores))


def find_gpus() -> list[str]:
    """Names of the NVIDIA GPUs that this process may use, as in CUDA_VISIBLE_DEVICES; found without CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU")]

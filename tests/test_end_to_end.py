"""The commands as people run them: real processes, real workers, and what happens when they are killed."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxr.errors import DatasetError
from tfrecords.format.manifest import read_manifest
from tfrecords.verify import verify

COMMAND = (sys.executable, "-m", "cxr")
SECONDS = 120


def cxr(*arguments: object, check: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=SECONDS)
    assert not check or done.returncode == 0, done.stderr
    return done


def start(log: Path, *arguments: object) -> subprocess.Popen:
    """Starts a command at the head of a process group of its own; what it says goes to `log`."""
    with open(log, "w") as file:
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def files_of(folder: Path) -> dict[str, bytes]:
    """What the files of a data set hold, but for the job's logs, in which there are times."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "tensorboard")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def finished_shards(output: Path) -> dict[str, int]:
    """Names of the finished shards of a running job, and when they were written."""
    results = [path.stem for path in (output / ".work" / "results").glob("[!.]*.json")]
    found = {}
    for path in (output / ".work" / "build" / "full").glob("[!.]*tfrecord*"):
        split, index = path.name.split("-")[1].split(".")[0], path.name.split("-")[2]
        if f"{split}-{index}" in results:
            found[path.name] = path.stat().st_mtime_ns
    return found


def wait_until(condition, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Phantoms large enough that a job can be caught at work."""
    folder = tmp_path_factory.mktemp("images") / "images"
    cxr("phantom", "--to", folder, "--patients", 90, "--seed", 5, "--scale", 0.6)
    return folder


@pytest.fixture(scope="module")
def reference(images, tmp_path_factory) -> Path:
    """What an undisturbed job of one worker makes of them."""
    output = tmp_path_factory.mktemp("reference") / "data"
    cxr("preprocess", "--input", images, "--output", output, "--sizes", "128", "--direct_num_workers", 1)
    return output


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_workers_writes_the_same_bytes(images, reference, tmp_path, workers):
    cxr(
        "preprocess",
        "--input",
        images,
        "--output",
        tmp_path / "data",
        "--sizes",
        "128",
        "--direct_num_workers",
        workers,
    )
    assert files_of(tmp_path / "data") == files_of(reference)


def test_killed_with_all_its_processes_it_goes_on_where_it_was(images, reference, tmp_path):
    output = tmp_path / "data"
    arguments = ("preprocess", "--input", images, "--output", output, "--sizes", "128")
    job = start(tmp_path / "log.txt", *arguments)
    wait_until(lambda: len(finished_shards(output)) >= 3 or job.poll() is not None)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    before = finished_shards(output)
    assert before, "the job was too fast to be caught"
    with pytest.raises(DatasetError, match="run it again"):
        read_manifest(output)
    done = cxr(*arguments)
    assert "shards kept from an earlier run" in done.stdout
    for name, modified in before.items():
        assert (output / "full" / name).stat().st_mtime_ns == modified, f"{name} was written anew"
    assert files_of(output) == files_of(reference)


@pytest.mark.slow
def test_a_reader_during_overwrite_sees_the_old_set_the_new_one_or_none(images, reference, tmp_path):
    output = tmp_path / "data"
    cxr("preprocess", "--input", images, "--output", output, "--sizes", "64")
    old, new = read_manifest(output), read_manifest(reference)
    job = start(
        tmp_path / "log.txt", "preprocess", "--input", images, "--output", output, "--sizes", "128", "--overwrite"
    )
    seen = []
    while job.poll() is None:
        try:
            manifest = read_manifest(output)
        except DatasetError:
            seen.append("none")
            continue
        seen.append("old" if manifest == old else "new")
        assert manifest in (old, new)
        for rung in manifest.rungs:
            for split in manifest.splits:
                there = [path.exists() for path in manifest.shard_paths(output, rung, split)]
                # the set may be replaced between two looks, and then its manifest is another one or gone
                if not all(there):
                    with contextlib.suppress(DatasetError):
                        assert read_manifest(output) != manifest
    assert job.returncode == 0
    assert "old" in seen
    assert files_of(output) == files_of(reference)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_killed_at_any_moment_over_and_over(images, reference, tmp_path, seed):
    """Kills at random moments, each with a reader looking on, until a run gets through."""
    moments = random.Random(seed)
    output = tmp_path / "data"
    arguments = ("preprocess", "--input", images, "--output", output, "--sizes", "128")
    for patience in range(12):
        job = start(tmp_path / "log.txt", *arguments)
        deadline = time.monotonic() + moments.uniform(0.5, 6) + patience
        while job.poll() is None and time.monotonic() < deadline:
            try:
                manifest = read_manifest(output)
            except DatasetError:
                pass
            else:
                assert verify(output) == [], "a reader saw a data set that was not whole"
                assert manifest == read_manifest(reference)
            time.sleep(0.01)
        if job.poll() is not None:
            break
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    else:
        cxr(*arguments)
    assert job.returncode in (0, -signal.SIGKILL), (tmp_path / "log.txt").read_text()
    assert files_of(output) == files_of(reference)


@pytest.mark.slow
def test_workers_whose_driver_was_killed_stop_by_themselves(images, reference, tmp_path):
    output = tmp_path / "data"
    arguments = ("preprocess", "--input", images, "--output", output, "--sizes", "128")
    job = start(tmp_path / "log.txt", *arguments)
    wait_until(lambda: finished_shards(output) or job.poll() is not None)
    job.kill()
    job.wait()

    def nobody_left() -> bool:
        try:
            os.killpg(job.pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(nobody_left, 30)
    cxr(*arguments)
    assert files_of(output) == files_of(reference)


def test_interrupt_says_how_to_go_on(images, tmp_path):
    output = tmp_path / "data"
    # work enough that it is not over between its first shard and the signal
    arguments = ("preprocess", "--input", images, "--output", output, "--encoding", "png", "--sizes", "200,128,64")
    job = start(tmp_path / "log.txt", *arguments)
    wait_until(lambda: finished_shards(output) or job.poll() is not None)
    os.killpg(job.pid, signal.SIGINT)
    job.wait(30)
    said = (tmp_path / "log.txt").read_text()
    assert job.returncode == 130
    assert "run the same command again to continue" in said
    assert "Traceback" not in said
    assert "kept from an earlier run" in cxr(*arguments).stdout


@pytest.mark.slow
def test_two_jobs_cannot_write_to_one_directory(images, tmp_path):
    output = tmp_path / "data"
    arguments = ("preprocess", "--input", images, "--output", output)
    job = start(tmp_path / "log.txt", *arguments)
    wait_until(lambda: (output / ".work" / "job.json").exists() or job.poll() is not None)
    second = cxr(*arguments, check=False)
    assert second.returncode == 1
    assert "another job is writing" in second.stderr
    assert job.wait(SECONDS) == 0
    assert verify(output) == []


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def is_up(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_a_job_service_and_workers_as_a_cluster_has_them(images, reference, tmp_path):
    """Beam's portable runner: driver, job service and workers are processes of their own, in folders of their own."""
    jobs, workers = free_port(), free_port()
    # a worker pool starts the `python` that it finds
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    services = [
        subprocess.Popen(
            [sys.executable, "-m", f"apache_beam.runners.{module}", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            env=environment,
        )
        for module, arguments in (
            ("portability.local_job_service_main", ["-p", str(jobs)]),
            ("worker.worker_pool_main", [f"--service_port={workers}"]),
        )
    ]
    try:
        wait_until(lambda: is_up(jobs) and is_up(workers), 60)
        # relative paths: what workers are sent must not depend on where the driver stands
        source = os.path.relpath(images, tmp_path)
        beam = [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{jobs}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{workers}",
        ]
        done = subprocess.run(
            [*COMMAND, "preprocess", "--input", source, "--output", "data", "--sizes", "128", *beam],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
    finally:
        for service in services:
            os.killpg(service.pid, signal.SIGKILL)
            service.wait()
    assert files_of(tmp_path / "data") == files_of(reference)


def test_the_module_runs_as_well_as_the_command(images, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "beam_jobs.preprocess", "--input", tmp_path / "nothing", "--output", tmp_path / "data"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the input")
    assert not (tmp_path / "data").exists()


def test_the_real_x_rays(fullres, tmp_path):
    """The two duplicate pairs and the shortcut that shared knowledge says are in this set."""
    output = tmp_path / "data"
    said = cxr("preprocess", "--input", fullres, "--output", output, "--sizes", "256").stdout
    assert "person1430_bacteria_3695.jpeg = train/PNEUMONIA/person1430_bacteria_3696.jpeg" in said
    assert "person1619_bacteria_4267.jpeg = train/PNEUMONIA/person1619_bacteria_4268.jpeg" in said
    assert re.search(r"duplicate images \(equal pixels\) +2 in 2 groups", said)
    assert "WARNING SHORTCUT: the label 'PNEUMONIA' can be predicted from the encoding alone" in said
    assert "185 images; none rejected" in said
    assert cxr("verify", output, "--deep").stdout.strip().endswith("every pixel")
    assert "contact sheet of val" in cxr("inspect", output, "--split", "val", "--save-grid", tmp_path / "g.png").stdout

"""Runs a search: the chief and the workers of this host, or workers for a chief on another."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr.errors import CxrError, InputError, OutputError, TrainingError
from cxr.machine import load_tensorflow_quietly, usable_cores
from tfrecords.dataset import open_dataset
from trainer.facts import DataFacts, check_trainable
from trainer.run import describe_making, locked
from trainer.training.stopping import Stopped, StopRequest, stop_on_signals
from tuner.cluster.host import find_gpus
from tuner.cluster.live_table import LiveTable
from tuner.cluster.protocol import BEAT_SECONDS, QUESTIONS, is_loopback, serve
from tuner.cluster.supervisor import Supervisor, worker_names
from tuner.cluster.worker_options import WorkerOptions
from tuner.project import check_project, check_same, clear
from tuner.results import SearchResult, cannot_write, read_search, write_search_file
from tuner.search_config import Resources, SearchConfig, parse_address

if TYPE_CHECKING:
    from tuner.cluster.chief import Chief

_LINGER_SECONDS = 60.0


def search(
    config: SearchConfig, resources: Resources | None = None, *, resume: bool = False, overwrite: bool = False,
    quiet: bool = False,
) -> SearchResult:  # fmt: skip
    """Searches, and returns when no trial is left.

    From a notebook:

        import tuner
        found = tuner.search(tuner.SearchConfig(data="data/cxr", project="search", oracle="random", max_trials=10))
        found.best.config

    Args:
      config: of the search. To resume, take it from `load_config`.
      resources: to run it on; one worker on this host if not given.
      resume: continue the search that the project holds; a complete one continues if `max_trials` has grown.
      overwrite: delete the search that the project holds.
      quiet: show nothing.

    Returns:
      All trials; the best first in `ranked`.

    Raises:
      InputError: the configuration, or the data for it, cannot be used.
      OutputError: the project holds something already, or another process uses it.
      Stopped: Ctrl-C or SIGTERM; everything is saved, and `resume` continues.
      TrainingError: too many trials failed in a row, a worker cannot be started, or the disk is full.
    """
    resources = resources or Resources()
    project, data = Path(config.project), open_dataset(config.data)
    facts = DataFacts.of(data, config.positive)
    check_trainable(data, facts, config.goal.monitor)
    check_project(project, resume, overwrite)
    refusal = f"another process runs the search in {project}; wait for it, or choose another --project"
    with _signals() as stop, locked(project, refusal), LiveTable(quiet) as table:
        if resume:
            check_same(project, config, facts)
        elif overwrite:
            clear(project)
        if warning := data.small_split("val"):
            table.say(f"WARNING {warning}: trials are ranked by it")
        state, reason = _run(config, resources, facts, resume, table, stop)
    hint = f"`cxr tune --project {config.project} --resume` continues it"
    if state == "stopped":
        raise Stopped(f"stopped; {hint}", stop.signal)
    if state == "failed":
        raise TrainingError(f"the search failed: {reason}\nAll results so far are kept; {hint}")
    return read_search(project)


def _run(
    config: SearchConfig, resources: Resources, facts: DataFacts, resume: bool, table: LiveTable, stop: StopRequest
) -> tuple[str, str]:  # fmt: skip
    """Runs chief and workers until the search is over; returns its state and the reason, and writes them down."""
    chief_to_be: Future[Chief] = Future()
    server, port = serve(resources.bind, _deferred(chief_to_be))
    host, _ = parse_address(resources.bind)
    local = "127.0.0.1" if host in ("0.0.0.0", "[::]") else host
    options = WorkerOptions(
        f"{local}:{port}", "", config.data, config.project, trials=resources.worker_trials,
        stream=resources.stream,
    )  # fmt: skip
    fields = {"settings": config.to_json(), "data": facts.to_json(), "made": describe_making(sys.argv)}
    state, reason = "failed", "it could not start"
    try:
        write_search_file(Path(config.project), {**fields, "state": "running", "reason": ""})
        _introduce(table, config, resources, f"{host}:{port}")
        supervisor = Supervisor(worker_names(resources.workers), options, resources.lease_seconds, table.say)
        try:
            supervisor.look_after()  # workers load TensorFlow while the chief does
            load_tensorflow_quietly()
            from tuner.cluster.chief import Chief

            chief = Chief(
                config, facts.digest, resume=resume, lease_seconds=resources.lease_seconds,
                hang_seconds=resources.hang_seconds, notify=table.say,
            )  # fmt: skip
            chief_to_be.set_result(chief)
            reason = "it ended unexpectedly"
            try:
                _watch(chief, supervisor, table, stop)
            except CxrError as error:
                chief.halt("failed", str(error))
            finally:
                supervisor.stop()
                chief.put_down()
            _linger(chief, resources.workers)
            state, reason = chief.state, chief.reason
        finally:
            chief_to_be.cancel()
            supervisor.stop()
    except OSError as error:
        reason = cannot_write(Path(config.project), error)
    finally:
        server.stop(0.5).wait()
        with contextlib.suppress(OutputError):  # a full disk was reported already
            write_search_file(Path(config.project), {**fields, "state": state, "reason": reason})
    return state, reason


def work(
    chief: str, data: str, project: str, resources: Resources | None = None, *, patience: float = 600.0,
    quiet: bool = False,
) -> None:  # fmt: skip
    """Runs workers for a chief on another host, until it says that the search is over.

    Args:
      chief: HOST:PORT of it.
      data: directory of the same data set on this host.
      project: directory for the trials' runs; the chief's own where hosts share a file system, so that a trial whose
        host has died is resumed and not started again.
      resources: of this host.
      patience: seconds to wait for a chief that does not answer, for example while it is restarted.
      quiet: show nothing.

    Raises:
      Stopped: Ctrl-C or SIGTERM; the trials go back to the chief.
      TrainingError: a worker ended too often without a trial.
    """
    resources = resources or Resources()
    open_dataset(data)
    options = WorkerOptions(
        chief, "", data, project, trials=resources.worker_trials, patience=patience, stream=resources.stream
    )
    prefix = f"{socket.gethostname()}-{uuid.uuid4().hex[:4]}-"
    try:
        with _signals() as stop, LiveTable(quiet) as table:
            names = worker_names(resources.workers, prefix)
            supervisor = Supervisor(names, options, resources.lease_seconds, table.say)
            _say_sharing(table, resources)
            table.say(f"{resources.workers} workers for the chief at {chief}; logs in {Path(project, 'logs')}")
            try:
                while supervisor.alive and not stop:
                    supervisor.look_after()
                    time.sleep(0.1)
            finally:
                supervisor.stop()
            if stop:
                raise Stopped("stopped; the trials wait for other workers", stop.signal)
            table.say("the search is over")
    except OSError as error:
        raise OutputError(f"{project} cannot be written: {error.strerror or error}") from error


def _watch(chief: Chief, supervisor: Supervisor, table: LiveTable, stop: StopRequest) -> None:
    """Until the search is over."""
    checked = time.monotonic()
    while chief.state == "running":
        if stop:
            chief.halt("stopped", "")
            return
        supervisor.look_after()
        if time.monotonic() - checked > min(1.0, chief.lease_seconds / 4):
            chief.look_around()
            checked = time.monotonic()
        if supervisor.children and not supervisor.alive:
            raise TrainingError("all workers ended before the search did")
        table.show(chief)
        time.sleep(0.1)
    table.show(chief)


def _deferred(chief: Future[Chief]) -> dict[str, Callable[..., dict[str, Any]]]:
    """The questions of workers that start before the chief; each is answered as soon as the chief is there."""

    def ask(name: str, **question: Any) -> dict[str, Any]:
        try:
            return getattr(chief.result(), name)(**question)
        except CancelledError as error:
            raise InputError("the search ended before it started") from error

    return {name: partial(ask, name) for name in QUESTIONS}


def _linger(chief: Chief, local_workers: int) -> None:
    """Keeps answering until workers on other hosts have heard that the search is over, for a limited time."""
    seconds = 3 * BEAT_SECONDS if chief.state == "stopped" else _LINGER_SECONDS
    end = time.monotonic() + min(seconds, chief.lease_seconds)
    while not chief.everybody_knows(worker_names(local_workers)) and time.monotonic() < end:
        time.sleep(0.2)


def _introduce(table: LiveTable, config: SearchConfig, resources: Resources, address: str) -> None:
    table.say(
        f"{config.oracle} search for {config.objective} in the space '{config.space.name}', "
        f"{resources.workers} worker{'s' if resources.workers != 1 else ''}, chief at {address}"
    )
    _say_sharing(table, resources)
    if not is_loopback(parse_address(address)[0]):
        table.say(
            f"WARNING the chief listens on {address} without authentication or encryption: anybody who reaches that "
            "port can take trials and report scores. Use it only inside a network that you trust."
        )
    if not resources.workers:
        reached = address.replace("0.0.0.0", socket.gethostname()).replace("[::]", socket.gethostname())
        table.say(f"on each host:  cxr tune --role worker --chief {reached} --data DIR --project DIR --workers N")


def _say_sharing(table: LiveTable, resources: Resources) -> None:
    """Says so where workers share GPUs or cores of this host."""
    cores, gpus, workers = usable_cores(), len(find_gpus()), resources.workers
    if gpus and workers > gpus:
        table.say(f"note: {workers} workers share {gpus} GPUs, and their memory")
    elif not gpus and workers > cores:
        table.say(f"note: {workers} workers share {cores} cores")


def _signals() -> contextlib.AbstractContextManager[StopRequest]:
    """Turns signals into a request to stop, where this thread may receive them."""
    if threading.current_thread() is not threading.main_thread():
        return contextlib.nullcontext(StopRequest())
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # workers are started, not forked
    return stop_on_signals()

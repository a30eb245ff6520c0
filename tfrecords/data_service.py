"""`cxr data-service`: hosts that read, decode and fit for a training host, as a tf.data service.

A dispatcher hands out steps, workers load the batches, and `stream(..., data_service="grpc://HOST:PORT")`
receives them. The data set must lie under the same path for all of them.
"""

from __future__ import annotations

import argparse
import signal
import socket
import threading
from collections.abc import Sequence
from typing import Any

from cxr.console import EXIT_OK, run_command
from cxr.errors import InputError, OutputError
from cxr.machine import keep_tensorflow_small

_CONNECT_SECONDS = 10


def start_dispatcher(port: int = 0, work_dir: str | None = None) -> Any:
    """Starts a dispatcher in this process.

    Args:
      port: to listen on; 0 for any that is free.
      work_dir: where it keeps a journal, by which a dispatcher that was killed goes on; None keeps none.

    Returns:
      a `tf.data.experimental.service.DispatchServer`; its `target` is the address for `data_service`.

    Raises:
      OutputError: the port is taken, or the folder cannot be written.
    """
    import tensorflow as tf

    _check_free(port, "dispatcher")
    service = tf.data.experimental.service
    config = service.DispatcherConfig(port=port, work_dir=work_dir, fault_tolerant_mode=work_dir is not None)
    try:
        return service.DispatchServer(config)
    except (tf.errors.OpError, RuntimeError) as error:
        raise OutputError(f"the dispatcher cannot listen on port {port}: {error}") from error


def start_worker(dispatcher: str, address: str = "localhost", port: int = 0) -> Any:
    """Starts a worker in this process, which must not have made a `tf.numpy_function` before.

    Args:
      dispatcher: `host:port` of the dispatcher.
      address: name or address under which training hosts reach this host.
      port: to listen on; 0 for any that is free.

    Returns:
      a `tf.data.experimental.service.WorkerServer`.

    Raises:
      InputError: the address is not one.
      OutputError: the port is taken, or the dispatcher does not answer.
    """
    import tensorflow as tf

    from tfrecords.streaming.stream import register_loader

    dispatcher = dispatcher.removeprefix("grpc://")
    host, _, number = dispatcher.rpartition(":")
    if not host or not number.isdecimal():
        raise InputError(f"dispatcher {dispatcher!r}: expected an address such as host:5050")
    try:  # the worker itself would try for hours
        socket.create_connection((host, int(number)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise OutputError(
            f"no dispatcher answers at {dispatcher}: {error}; start one with `cxr data-service dispatcher`"
        ) from error
    _check_free(port, "worker")
    service = tf.data.experimental.service
    graph = register_loader()
    config = service.WorkerConfig(
        dispatcher_address=dispatcher,
        worker_address=f"{address}:{port if port else '%port%'}",
        port=port,
    )
    try:
        worker = service.WorkerServer(config)
    except (tf.errors.OpError, RuntimeError) as error:
        raise OutputError(f"the worker cannot serve dispatcher {dispatcher}: {error}") from error
    worker.registered_graph = graph  # it holds the function that the workers' graphs call
    return worker


def _check_free(port: int, role: str) -> None:
    """Raises OutputError for a port in use, which gRPC would share, so that each process gets half of the calls."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise OutputError(f"the {role} cannot listen on port {port}: {error.strerror}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: `cxr data-service dispatcher|worker`."""
    parser = argparse.ArgumentParser(
        prog="cxr data-service",
        description="Runs one process of a tf.data service: training then takes its batches from "
        "stream(..., data_service='grpc://HOST:PORT').",
        epilog="The protocol has no authentication, and a worker runs what a client sends: only on a network "
        "whose every host you trust. Every host must see the data set under the same path.",
    )
    roles = parser.add_subparsers(dest="role", required=True)
    dispatcher = roles.add_parser("dispatcher", help="the one process that hands out work")
    dispatcher.add_argument("--port", type=int, default=5050, help="to listen on; 0 for any (5050)")
    dispatcher.add_argument("--work-dir", help="keep a journal here, to go on after being killed (none)")
    worker = roles.add_parser("worker", help="a process that loads batches; any number of them")
    worker.add_argument("--dispatcher", required=True, metavar="HOST:PORT", help="address of the dispatcher")
    worker.add_argument("--address", default="localhost", help="name of this host, as others reach it (localhost)")
    worker.add_argument("--port", type=int, default=0, help="to listen on; 0 for any (0)")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.port < 1 << 16:
        raise InputError(f"--port {arguments.port}: expected 0 to 65535")
    keep_tensorflow_small()
    if arguments.role == "dispatcher":
        server = start_dispatcher(arguments.port, arguments.work_dir)
        print(f"dispatcher at {server.target} (for other hosts: this host's name); stop it with Ctrl-C", flush=True)
    else:
        server = start_worker(arguments.dispatcher, arguments.address, arguments.port)
        print(f"worker of dispatcher {arguments.dispatcher}; stop it with Ctrl-C", flush=True)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
    del server
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(run_command(main))

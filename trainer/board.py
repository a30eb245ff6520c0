"""`cxr board`: TensorBoard over everything that has been logged below a folder: data sets, runs and searches."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import itertools
import logging
import os
import socket
import sys
import threading
import types
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from cxr.command import Command, Given
from cxr.console import EXIT_OK, run_command
from cxr.errors import InputError, MissingExtraError
from cxr.events import is_event_file
from cxr.kinds import Flag, Text, Whole, directory
from cxr.options import Options, option, options
from tfrecords.format.shards import MANIFEST_NAME

FIRST_PORT = 6006
"""Port tried first where none is asked for."""
LOG_FOLDER = "tensorboard"
"""Folder of the logs in a data set or run; it may hold folders of its own."""
SEARCH_FILE = "oracle.json"
"""What KerasTuner keeps at the head of a search."""
WORK_NAME = ".work"
"""Folder by which the output of a job is known that has not finished a data set yet."""
_SHOWN = 20


@dataclasses.dataclass(frozen=True, order=True)
class Logged:
    """Something that has logs.

    Attributes:
      kind: `data set`, `search` or `run`.
      name: its folder, relative to the folder that was looked through; "." for that itself.
    """

    kind: str
    name: str


def find_logs(root: Path) -> list[Logged]:
    """Everything below `root` that has TensorBoard logs, each once, by kind and name."""
    return sorted({_owner(root, Path(folder)) for folder, _, names in os.walk(root) if any(map(is_event_file, names))})


def _owner(root: Path, folder: Path) -> Logged:
    """What the logs in a folder are about: the data set or run that keeps them, or the search that the run is of."""
    inside = folder.relative_to(root).parts
    while LOG_FOLDER in inside:
        inside = inside[: inside.index(LOG_FOLDER)]
    owner = root.joinpath(*inside)
    if (owner / MANIFEST_NAME).exists() or (owner / WORK_NAME).exists():
        return Logged("data set", str(owner.relative_to(root)))
    for outer in (owner, *owner.parents[: len(inside)]):
        if (outer / SEARCH_FILE).exists():
            return Logged("search", str(outer.relative_to(root)))
    return Logged("run", str(owner.relative_to(root)))


def describe(found: Sequence[Logged], root: Path) -> str:
    """What was found, sorted as `find_logs` gives it, as text."""
    if not found:
        return (
            f"note: nothing below {root} has TensorBoard logs yet; expected e.g. runs/NAME/tensorboard. "
            "They appear as soon as something is logged."
        )
    lines = []
    for kind, group in itertools.groupby(found, lambda logged: logged.kind):
        names = [logged.name for logged in group]
        plural = "s" if kind != "search" else "es"
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        lines.append(f"{len(names)} {kind}{plural if len(names) > 1 else ''}: {', '.join(names[:_SHOWN])}{more}")
    return "\n".join(lines)


def serve(root: Path, host: str, port: int | None) -> str:
    """Starts TensorBoard in a thread of this process, which it ends with; returns its URL.

    It looks through `root` again every few seconds. A port of None is the first free one from 6006 on.

    Raises:
      InputError: the port is taken or not allowed, or the host is not one of this machine.
      MissingExtraError: the package `tensorboard` is not installed.
    """
    _check_host(host)
    try:
        from tensorboard import default, program
        from tensorboard.data import server_ingester
    except ImportError as error:
        raise MissingExtraError("cxr board", error.name or "tensorboard", "train") from error
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    load_fast = "true"  # asked for by name: left to choose, TensorBoard prints five lines about it
    try:
        server_ingester.get_server_binary()
    except server_ingester.NoDataServerError:
        load_fast = "false"
    board = program.TensorBoard(plugins=default.get_plugins())
    board.configure(argv=("",), logdir=str(root), host=host, port=port, load_fast=load_fast)
    try:
        return board.launch()
    except program.TensorBoardPortInUseError as error:
        raise InputError(
            f"--port {port}: another program listens there. Leave --port out to take the next free one, or give another"
        ) from error
    except program.TensorBoardServerException as error:
        raise InputError(f"cannot listen at port {port or FIRST_PORT} of {host}: {error.msg}") from error


def _check_host(host: str) -> None:
    """Raises InputError unless this machine can listen at `host`; TensorBoard's server would end the process."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError as error:
        raise InputError(
            f"--host {host}: {error.strerror}; expected a name or address of this machine, such as 127.0.0.1"
        ) from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


@options
class BoardOptions(Options):
    """What `cxr board` shows, and where."""

    folder: str = option(directory(), "folder to look through", default=".", positional=True)
    port: int | None = option(
        Whole(1, 65535), "port to listen at", default=None, unset=f"the first free one from {FIRST_PORT}"
    )
    host: str = option(
        Text(metavar="HOST"), "address to listen at; 0.0.0.0 is all, with no password", default="127.0.0.1"
    )
    open: bool = option(Flag(), "open it in the browser", default=False)


def run(given: Given) -> int:
    """Serves TensorBoard until Ctrl-C."""
    asked = given.make(BoardOptions)
    root = Path(asked.folder)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; expected one with data sets, runs or searches below it")
    print(describe(find_logs(root), root), flush=True)
    if not _is_loopback(asked.host):
        print(
            f"WARNING: {asked.host} can be reached by others, and TensorBoard asks nobody for a password: who "
            "reaches the port sees the images",
            file=sys.stderr,
        )
    _check_host(asked.host)
    # TensorBoard's own switch against TensorFlow, which it needs for nothing that it shows here; of the whole process
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
    url = serve(root, asked.host, asked.port)
    for wildcard in ("//0.0.0.0:", "//[::]:"):
        url = url.replace(wildcard, f"//{socket.gethostname()}:")
    try:
        print(f"{url}  (Ctrl-C ends it)", flush=True)
        if asked.open:
            webbrowser.open(url)
        threading.Event().wait()
    except KeyboardInterrupt:
        print()
    return EXIT_OK


COMMAND = Command(
    "board",
    "Runs TensorBoard over all data sets, runs and searches below a folder, until Ctrl-C. What begins later appears by "
    "itself.",
    run, BoardOptions, needs="board",
)  # fmt: skip
main = COMMAND.main

if __name__ == "__main__":
    raise SystemExit(run_command(main))

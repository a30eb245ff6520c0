"""How far the workers are, seen from the driver while Beam's local runner blocks.

Each worker process keeps one small file of `images bytes` in a folder of the work directory; the driver
adds them up. A worker on another machine that shares the file system is seen as well.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from cxr.console import progress_bar
from cxr.files import write_atomically

WRITE_EVERY = 0.2
POLL_EVERY = 0.25
"""Seconds between two writes of a worker, and two looks of the driver."""


class ProgressWriter:
    """Counts images and bytes in a worker, and writes the sums out now and then; may be called by many threads.

    Args:
      folder: the progress folder.
      driver: process id of the driver, where it is on the same machine: a worker whose driver has died ends
        too, within an image, instead of writing on unseen. None for the workers of a cluster.
    """

    def __init__(self, folder: Path, driver: int | None):
        self._path = folder / f"{uuid.uuid4().hex}.txt"
        self._driver = driver
        self._images = self._bytes = 0
        self._written = 0.0
        self._lock = threading.Lock()

    def add(self, images: int, size: int) -> None:
        """Counts `images` images of `size` bytes as done."""
        with self._lock:
            self._images += images
            self._bytes += size
            if time.monotonic() - self._written >= WRITE_EVERY:
                self.flush()

    def flush(self) -> None:
        """Writes the sums out."""
        if self._driver is not None and not _is_alive(self._driver):
            os._exit(1)  # an orphan; sys.exit would only end this thread
        self._written = time.monotonic()
        with contextlib.suppress(OSError):  # progress is for looking at; whoever writes a shard reports a full disk
            write_atomically(self._path, f"{self._images} {self._bytes}")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def read_progress(folder: Path) -> tuple[int, int]:
    """(images, bytes) that all workers together have done."""
    images = size = 0
    for path in folder.glob("[!.]*.txt"):
        with contextlib.suppress(OSError, ValueError):
            done, done_bytes = map(int, path.read_text().split())
            images, size = images + done, size + done_bytes
    return images, size


def run_with_bar(
    work: Callable[[], None], folder: Path, total: int, description: str, log: Path | None, quiet: bool
) -> None:
    """Runs `work` in a thread while a progress bar shows what the workers report.

    What `work` and the processes it starts write to standard error goes to `log` where that is given: Beam's
    local workers tell of their own coming and going, and there is no option that stops them.

    Args:
      work: what to run; its exception is passed on.
      folder: the progress folder; emptied first.
      total, description: images in all, and what is being done, for the bar.
      log: file that standard error is appended to, or None.
      quiet: show no bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink(missing_ok=True)
    errors: list[BaseException] = []

    def target() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, daemon=True)
    with (
        _stderr_to(log) as terminal,
        _quiet_if_interrupted(log is not None),
        progress_bar(total, description, quiet, terminal, unit=" images") as bar,
    ):
        thread.start()
        while thread.is_alive():
            thread.join(POLL_EVERY)
            images, size = read_progress(folder)
            bar.set_postfix_str(f"{size / 2**20:.0f} MB", refresh=False)
            bar.update(min(images, total) - bar.n)
        if not errors:
            bar.update(total - bar.n)
    if errors:
        raise errors[0]


@contextlib.contextmanager
def _quiet_if_interrupted(local: bool) -> Iterator[None]:
    """After an interruption, Beam's threads no longer write to the terminal that a local worker is gone."""
    try:
        yield
    except KeyboardInterrupt:
        if local:
            logging.getLogger("apache_beam").setLevel(logging.CRITICAL + 1)
            threads, report = {*threading.enumerate()} - {threading.current_thread()}, threading.excepthook
            threading.excepthook = lambda args: None if args.thread in threads else report(args)
        raise


@contextlib.contextmanager
def _stderr_to(log: Path | None) -> Iterator[TextIO]:
    """Sends file descriptor 2 to `log`, if any; yields a stream to where it went before."""
    if log is None:
        yield sys.stderr
        return
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(log, "ab") as target, os.fdopen(os.dup(saved), "w") as terminal:
            os.dup2(target.fileno(), 2)
            yield terminal
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)

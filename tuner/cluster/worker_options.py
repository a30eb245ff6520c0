"""What a supervisor tells the process of a worker, and what that tells the supervisor."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any

EXIT_RECYCLED = 75
"""Exit status of a worker that has run as many trials as one process may."""
EXIT_HUNG = 76
"""Exit status of a worker that noticed that it made no progress."""
HEARTBEAT, TRIAL = b".", b"t"
"""What a worker writes to its supervisor's pipe: it is alive; it has a trial."""


@dataclasses.dataclass(frozen=True)
class WorkerOptions:
    """Options of a worker, passed as JSON in the only argument of its process.

    Attributes:
      chief: HOST:PORT.
      name: of the worker; a process that replaces another has the same.
      data: directory of the data set on this host.
      project: directory whose `runs` hold the trials.
      cores: that it may use; empty for all.
      trials: that the process runs before it ends, so that the memory that they leak is freed.
      patience: seconds to wait for a chief that does not answer.
      answer_seconds: that a heartbeat waits for its answer; the supervisor hears nothing meanwhile.
      pipe: file descriptor to write `HEARTBEAT` and `TRIAL` to; -1 for none.
      parent: id of the process that it ends with; 0 for none.
      ended: how the process before this one ended.
      stream: options of the stream that change its speed only.
    """

    chief: str
    name: str
    data: str
    project: str
    cores: tuple[int, ...] = ()
    trials: int = 8
    patience: float = 600.0
    answer_seconds: float = 5.0
    pipe: int = -1
    parent: int = 0
    ended: str = ""
    stream: dict[str, Any] = dataclasses.field(default_factory=dict)

    def signal_parent(self, sign: bytes) -> None:
        """Writes to the supervisor's pipe, if there is one; a full or closed pipe is ignored."""
        if self.pipe >= 0:
            with contextlib.suppress(OSError):
                os.write(self.pipe, sign)

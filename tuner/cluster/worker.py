"""`python -m tuner.cluster.worker`: a process that asks the chief for trials and trains them, one after another.

A supervisor starts it, and replaces it when it ends. Each trial is a training run as `cxr train` makes it, in
PROJECT/runs; one that another worker began is resumed from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import json
import sys
import time
import traceback
import uuid
from pathlib import Path
from typing import Any

from cxr.console import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from cxr.errors import CxrError, DatasetError, InputError, OutputError, TrainingError
from cxr.machine import load_tensorflow_quietly
from tfrecords.dataset import XrayDataset, open_dataset
from trainer.training.stopping import Stopped, StopRequest, stop_on_signals
from tuner.cluster.host import limit_cores
from tuner.cluster.protocol import VERSION, ChiefClient, ChiefLost
from tuner.cluster.pulse import Progress, Pulse
from tuner.cluster.worker_options import EXIT_RECYCLED, TRIAL, WorkerOptions


class Worker:
    """Asks for trials and trains them; the supervisor gave the options, and a signal may request to quit."""

    def __init__(self, options: WorkerOptions, quit: StopRequest):
        self.options, self.quit = options, quit
        self.process = uuid.uuid4().hex
        self.progress = Progress(options.name, self.process, quit)
        self.client = ChiefClient(options.chief, options.patience, self._gives_up)

    def _gives_up(self) -> bool:
        self.progress.touch()
        return bool(self.quit)

    def work(self) -> int:
        """Runs trials until there are no more, or as many as one process may; returns the exit status."""
        options = self.options
        data = open_dataset(options.data)
        pulse = Pulse(options, self.progress, self.quit)
        pulse.start()
        try:
            search = self.client.ask("join", worker=options.name, version=VERSION, digest=data.manifest.digest)
            pulse.beat_seconds, pulse.hang_seconds = search["beat_seconds"], search["hang_seconds"]
            load_tensorflow_quietly()
            import tuner.cluster.trial  # noqa: F401 - before the first trial, whose time is measured

            for _ in range(options.trials):
                task = self._next()
                if task is None:
                    return EXIT_INTERRUPTED if self.quit else EXIT_OK
                self._run(task, data, search)
                if self.quit:
                    return EXIT_INTERRUPTED
            return EXIT_RECYCLED
        finally:
            pulse.stop()
            self.client.close()

    def _next(self) -> dict[str, Any] | None:
        """The next trial; None where there is none left."""
        ended = self.options.ended
        while not self.quit:
            task = self.client.ask("next", worker=self.options.name, process=self.process, ended=ended)
            if task["do"] == "run":
                self.options.signal_parent(TRIAL)
                return task
            if task["do"] == "stop":
                return None
            self.progress.move("waiting")
            time.sleep(task["seconds"])
        return None

    def _run(self, task: dict[str, Any], data: XrayDataset, search: dict[str, Any]) -> None:
        """Trains a trial, and tells the chief the result, whatever it is."""
        from tuner.cluster.trial import run_trial

        self.progress.begin(task["trial"])
        print(f"{_now()} trial {task['trial']}: {json.dumps(task['config'])}", flush=True)
        begun = time.monotonic()
        outcome: dict[str, Any]
        try:
            outcome = run_trial(task, data, search, self.options, self.progress, self.client)
        except Stopped:
            outcome = {"outcome": "released"}
        except (TrainingError, InputError) as error:
            outcome = {"outcome": "failed", "message": str(error)}
        except Exception as error:
            traceback.print_exc()
            outcome = describe_error(error)
        self.progress.move("done")
        outcome["seconds"] = time.monotonic() - begun
        print(f"{_now()} trial {task['trial']}: {outcome['outcome']} {outcome.get('message', '')}", flush=True)
        lease, self.progress.trial = self.progress.lease, None
        self.client.ask("end", **lease, **outcome)
        if outcome["outcome"] == "released" and not self.quit:
            time.sleep(1.0)  # another process may still have the run
        if outcome["outcome"] in ("completed", "pruned", "failed"):  # nobody resumes it
            with contextlib.suppress(OSError):
                Path(self.options.project, "runs", task["trial"], "checkpoints", "last.npz").unlink(missing_ok=True)


def describe_error(error: Exception) -> dict[str, Any]:
    """What to tell the chief of a trial that ended with an error which is not about its configuration."""
    message = str(error) if isinstance(error, CxrError) else f"{type(error).__name__}: {error}"
    message = message if len(message) < 2000 else message[:1000] + " ... " + message[-900:]
    chain: BaseException | None = error
    while chain is not None:
        full = isinstance(chain, OSError) and chain.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT)
        if full or "No space left on device" in str(chain):
            return {"outcome": "lost", "message": message, "fatal": True}
        chain = chain.__cause__ or chain.__context__
    lost = isinstance(error, (OSError, OutputError, DatasetError))
    return {"outcome": "lost" if lost else "failed", "message": message}


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def main() -> int:
    """Runs a worker with the options that are its argument; returns its exit status."""
    fields = json.loads(sys.argv[1])
    options = WorkerOptions(**{**fields, "cores": tuple(fields["cores"])})
    limit_cores(options.cores)
    with stop_on_signals() as quit:
        try:
            return Worker(options, quit).work()
        except ChiefLost as error:
            print(f"{options.name}: {error}", file=sys.stderr)
            return EXIT_INTERRUPTED if quit else EXIT_FAILED
        except CxrError as error:
            print(f"error: {options.name}: {error}", file=sys.stderr)
            return EXIT_FAILED


if __name__ == "__main__":
    raise SystemExit(main())

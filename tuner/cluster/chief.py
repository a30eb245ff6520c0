"""The chief of a search: hands trials out, notes what comes of them, and outlives its workers.

It keeps KerasTuner's oracle, which decides what to try. Each trial that is out is leased to one process of one worker;
a worker that is silent for too long, or comes back as another process, loses it, and another takes it up from its
last checkpoint. All that it knows is on disk before it answers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from keras_tuner.engine.trial import Trial, TrialStatus

from cxr.errors import CxrError, InputError
from trainer.train_config import MONITORS
from tuner.cluster.oracles import Durable, make_oracle, planned_epochs, planned_trials, released_on_error
from tuner.cluster.protocol import BEAT_SECONDS, QUESTIONS, VERSION
from tuner.cluster.pruning import why_prune
from tuner.cluster.search_log import SearchLog
from tuner.record import Record
from tuner.results import cannot_write
from tuner.search_config import SearchConfig

Outcome = Literal["completed", "pruned", "failed", "lost", "released"]
State = Literal["running", "complete", "failed", "stopped"]


@dataclasses.dataclass
class Lease:
    """A trial that is out.

    Attributes:
      trial: its id.
      process: name of the process that has it, never used again.
      begun, seen: when it was given, and the last sign of life, by the monotonic clock.
      epoch, fraction: epochs done, and of the next.
      images_per_second: of its last epoch, None before the first.
      doing: what it says that it does, e.g. `training`.
    """

    trial: str
    process: str
    begun: float
    seen: float
    epoch: int = 0
    fraction: float = 0.0
    images_per_second: float | None = None
    doing: str = "starting"


class Chief:
    """Hands out the trials of a search. May be asked by many threads.

    Args:
      config: of the search.
      digest: of the data set's manifest; workers with another are sent away.
      resume: take up what the project has.
      lease_seconds: silence after which a worker is taken for dead.
      hang_seconds: after which a worker that makes no step, and no more of anything, is to give up.
      notify: called with a line for people at each event.

    Attributes:
      state, reason: how the search stands, and why.
      leases: by worker.
      oracle: KerasTuner's.
      records: by trial.
      planned_trials, planned_epochs: of the whole search if nothing fails or is pruned; None where not known.
    """

    def __init__(
        self,
        config: SearchConfig,
        digest: str,
        *,
        resume: bool = False,
        lease_seconds: float = 60.0,
        hang_seconds: float = 900.0,
        notify: Callable[[str], None] = lambda text: None,
    ):
        self.config, self.digest = config, digest
        self.lease_seconds, self.hang_seconds, self.notify = lease_seconds, hang_seconds, notify
        self.project = Path(config.project)
        self.state: State = "running"
        self.reason = ""
        self.leases: dict[str, Lease] = {}
        self.seen: dict[str, float] = {}
        self._told: set[str] = set()
        self._looked = time.monotonic()
        self._lock = threading.RLock()
        self.oracle: Durable = make_oracle(config)
        self.records: dict[str, Record] = {}
        if resume and Path(self.oracle._get_oracle_fname()).exists():
            self.oracle.reload()
            self.records = {trial: Record.load(self._folder(trial)) for trial in self.oracle.trials}
        else:
            self.oracle.save()
        self.planned_trials = planned_trials(self.oracle, config)
        self.planned_epochs = planned_epochs(self.oracle, config)
        self.log = SearchLog(self.project / "tensorboard", config)

    @property
    def methods(self) -> dict[str, Callable[..., dict[str, Any]]]:
        """What it can be asked, for `tuner.cluster.protocol.serve`."""
        return {name: getattr(self, name) for name in QUESTIONS}

    def join(self, worker: str, version: int, digest: str) -> dict[str, Any]:
        """A worker's first word: what all trials have in common.

        Raises:
          InputError: it is of another version, or has other data.
        """
        if version != VERSION:
            raise InputError(
                f"it speaks version {VERSION} and {worker} version {version}; install the same cxr on both"
            )
        if digest != self.digest:
            raise InputError(
                f"{worker} has another data set than this search, {self.config.data}: expected the manifest "
                f"{self.digest[:12]}, received {digest[:12]}. Copy the data set, or give the right --data"
            )
        with self._lock:
            self.seen[worker] = time.monotonic()
        return {
            "objective": self.config.objective,
            "positive": self.config.positive,
            "beat_seconds": min(BEAT_SECONDS, self.lease_seconds / 4),
            "hang_seconds": self.hang_seconds,
        }

    def next(self, worker: str, process: str, ended: str = "") -> dict[str, Any]:
        """A trial for a process of a worker: `{"do": "run" | "wait" | "stop", ...}`.

        Args:
          worker: its name.
          process: name of the process; the same one is given its trial again.
          ended: how the worker's process before this one ended, where that is known.
        """
        with self._at_work():
            self.seen[worker] = time.monotonic()
            lease = self.leases.get(worker)
            if lease and lease.process != process:
                self._lose(worker, ended or "it was started anew")
                lease = None
            if self.state == "running":
                trial_id = lease.trial if lease else self._take(worker, process)
                if trial_id is not None:
                    return {"do": "run", "trial": trial_id, "config": self.records[trial_id].config}
            if self.state == "running":
                return {"do": "wait", "seconds": 1.0}
            self._told.add(worker)
            return {"do": "stop", "reason": self.reason}

    def report(
        self,
        worker: str,
        process: str,
        trial: str,
        epoch: int = 0,
        fraction: float = 0.0,
        doing: str = "training",
        rows: Sequence[Mapping[str, float]] = (),
        parameters: int | None = None,
    ) -> dict[str, Any]:
        """A sign of life, with the epochs that ended since: `{"do": "go on" | "prune" | "leave", "reason": ...}`."""
        with self._at_work():
            lease = self._lease_of(worker, process, trial)
            if lease is None:
                return {"do": "leave", "reason": "the trial was given to another worker"}
            lease.epoch, lease.fraction, lease.doing = epoch, fraction, doing
            record = self.records[trial]
            if parameters is not None:
                record.parameters = parameters
            if rows:
                record.add_epochs(rows)
                lease.images_per_second = rows[-1].get("images_per_second") or lease.images_per_second
                record.save(self._folder(trial))
                self.log.epochs(trial, rows)
            if self.state != "running":
                return {"do": "leave", "reason": self.reason}
            why = self._why_prune(trial) if rows else None
            return {"do": "prune", "reason": why} if why else {"do": "go on", "reason": ""}

    def end(
        self,
        worker: str,
        process: str,
        trial: str,
        outcome: Outcome,
        message: str = "",
        score: float | None = None,
        best_epoch: int = 0,
        rows: Sequence[Mapping[str, float]] = (),
        parameters: int | None = None,
        seconds: float = 0.0,
        fatal: bool = False,
    ) -> dict[str, Any]:
        """What became of a trial.

        Args:
          worker, process, trial: who had which.
          outcome: `completed`, `pruned` or `failed`; `lost` if the worker cannot go on with it but another might,
            `released` if it was asked to stop.
          message: why it was not completed.
          score: of the objective.
          best_epoch: that it is of, from 1.
          rows: all its epochs.
          parameters: weights of the model.
          seconds: that this attempt took.
          fatal: whether other trials would fare no better, as on a full disk; ends the search.
        """
        with self._at_work():
            lease = self._lease_of(worker, process, trial, adopt=outcome not in ("lost", "released"))
            if lease is None:
                return {}
            record = self.records[trial]
            record.add_epochs(rows)
            record.parameters = parameters or record.parameters
            record.seconds += seconds
            if fatal:
                self._release(worker)
                self.halt("failed", f"{worker}: {message}")
            elif outcome == "released":
                self._release(worker)
            elif outcome == "lost":
                self._lose(worker, message)
            elif outcome == "failed" or score is None or score != score:
                self._finish(worker, TrialStatus.FAILED, message or f"{self.config.objective} was not a number")
            else:
                record.pruned = outcome == "pruned"
                self._score(self.oracle.trials[trial], record, score, best_epoch)
                self._finish(worker, TrialStatus.COMPLETED, message)
            return {}

    def look_around(self) -> None:
        """Takes trials from workers that were silent for too long; to be called now and then."""
        with self._at_work():
            now = time.monotonic()
            deaf, self._looked = now - self._looked, now
            for worker, lease in list(self.leases.items()):
                if deaf > self.lease_seconds / 2:  # the oracle took its time, and nobody was listened to meanwhile
                    lease.seen = now
                if now - lease.seen > self.lease_seconds:
                    self._lose(worker, f"{worker} was silent for {now - lease.seen:.0f} s")

    def halt(self, state: State, reason: str) -> None:
        """Ends the search; workers are told so when they next ask, and what they have waits for a resumption."""
        with self._lock:
            if self.state == "running":
                self.state, self.reason = state, reason
                self.notify(f"{state}: {reason}" if reason else state)

    def put_down(self) -> None:
        """Lets every trial that is out wait for a resumption, and closes the log."""
        with self._lock:
            for worker in list(self.leases):
                with contextlib.suppress(OSError):
                    self._release(worker)
            self.log.close()

    def everybody_knows(self, but: Collection[str] = ()) -> bool:
        """Whether all workers that were heard of lately, but for some, have been told that the search is over."""
        now = time.monotonic()
        with self._lock:
            lately = {worker for worker, seen in self.seen.items() if now - seen < self.lease_seconds}
            return lately - set(but) <= self._told

    def count(self) -> dict[str, int]:
        """Trials by how they stand: `completed` (pruned ones too), `failed`, `running`, `waiting`."""
        with self._lock:
            statuses = [trial.status for trial in self.oracle.trials.values()]
            return {
                "completed": statuses.count(TrialStatus.COMPLETED),
                "failed": statuses.count(TrialStatus.FAILED),
                "running": len(self.leases),
                "waiting": len(self.oracle.waiting),
            }

    def out(self) -> dict[str, Lease]:
        """Copies of the leases, by worker."""
        with self._lock:
            return {worker: dataclasses.replace(lease) for worker, lease in self.leases.items()}

    def best(self, count: int) -> list[Trial]:
        """The best trials so far that have a score."""
        with self._lock:
            return [trial for trial in self.oracle.get_best_trials(count) if trial.score is not None]

    def _take(self, worker: str, process: str) -> str | None:
        """A waiting trial, or a new one, leased to the worker; None where there is none now or ever."""
        limit, oracle = self.config.limit, self.oracle
        if not oracle.waiting and limit is not None and len(oracle.trials) >= limit:
            status = TrialStatus.STOPPED
        else:
            trial = oracle.create_trial(worker)
            status = trial.status
        if status == TrialStatus.RUNNING:
            return self._lease(worker, process, trial)
        if status == TrialStatus.STOPPED and not oracle.ongoing_trials and not oracle.waiting:
            self.halt("complete", "")
        return None

    def _lease(self, worker: str, process: str, trial: Trial) -> str:
        trial_id = trial.trial_id
        now = time.monotonic()
        self.leases[worker] = Lease(trial_id, process, now, now)
        if trial_id not in self.records or not self.records[trial_id].config:
            values = trial.hyperparameters.values
            epochs = int(values.get("tuner/epochs", self.config.epochs))
            config = self.config.space.train_config(
                values, epochs=epochs, monitor=self.config.goal.monitor, seed=self.config.seed
            )
            self.records[trial_id] = Record(config.resolved().to_json())
            self.log.begin(trial_id, values)
        record = self.records[trial_id]
        record.attempts += 1
        record.worker = worker
        record.save(self._folder(trial_id))
        return trial_id

    def _lease_of(self, worker: str, process: str, trial_id: str, adopt: bool = True) -> Lease | None:
        """The lease by which a process has a trial; `adopt` makes one for who kept at it while the chief was away."""
        now = time.monotonic()
        self.seen[worker] = now
        lease = self.leases.get(worker)
        if lease is None and adopt and self.state == "running" and self.oracle.give_again(worker, trial_id):
            lease = self.leases[worker] = Lease(trial_id, process, now, now)
        if lease is None or lease.process != process or lease.trial != trial_id:
            return None
        lease.seen = now
        return lease

    def _why_prune(self, trial_id: str) -> str | None:
        record, monitor = self.records[trial_id], self.config.goal.monitor
        own = record.values(monitor)
        if not own or len(own) >= record.config["epochs"]:
            return None
        others = [
            other.values(monitor)
            for name, other in self.records.items()
            if name != trial_id and other.config.get("epochs") == record.config["epochs"]
        ]
        return why_prune(self.config.pruner, own, others, MONITORS[monitor], self.config.factor)

    def _score(self, trial: Trial, record: Record, score: float, best_epoch: int) -> None:
        """Gives KerasTuner the metrics, of every epoch where the objective has one."""
        goal, name = self.config.goal, self.config.objective
        if not trial.metrics.exists(name):
            trial.metrics.register(name, direction=goal.direction)
        if goal.shift_metric is None:
            for row in record.history:
                if name in row:
                    trial.metrics.update(name, row[name], step=int(row["epoch"]))
        else:
            trial.metrics.update(name, score, step=best_epoch)

    def _finish(self, worker: str, status: str, message: str) -> None:
        trial_id = self.leases.pop(worker).trial
        record, trial = self.records[trial_id], self.oracle.trials[trial_id]
        record.message = message or None
        record.save(self._folder(trial_id))
        trial.status, trial.message = status, record.message
        self.oracle.end_trial(trial)
        self.log.end(trial_id, record, trial.score if status == TrialStatus.COMPLETED else None)
        self.notify(self._describe(trial, record))
        self._count_failures()

    def _describe(self, trial: Trial, record: Record) -> str:
        if trial.status == TrialStatus.FAILED:
            return f"trial {trial.trial_id} failed: {record.message}"
        how = "pruned" if record.pruned else "completed"
        why = f", for {record.message}" if record.pruned else ""
        return f"trial {trial.trial_id} {how}: {self.config.objective} {trial.score:.4f}{why}"

    def _count_failures(self) -> None:
        last = self.oracle.end_order[-self.config.max_failures :]
        if len(last) == self.config.max_failures and all(
            self.oracle.trials[trial].status == TrialStatus.FAILED for trial in last
        ):
            self.halt(
                "failed",
                f"{len(last)} trials failed one after the other, the last because: {self.records[last[-1]].message}",
            )

    def _lose(self, worker: str, how: str) -> None:
        """Takes the trial of a worker that will not end it."""
        trial_id = self.leases[worker].trial
        record = self.records[trial_id]
        record.losses.append(how)
        if len(record.losses) >= self.config.max_attempts:
            times = f"{len(record.losses)} workers" if len(record.losses) > 1 else "the worker"
            self._finish(worker, TrialStatus.FAILED, f"{times} could not finish it, the last: {how}")
            return
        record.save(self._folder(trial_id))
        self._release(worker)
        self.notify(f"trial {trial_id} waits for another worker: {how}")

    def _release(self, worker: str) -> None:
        lease = self.leases.pop(worker)
        if worker in self.oracle.ongoing_trials:
            self.oracle.take_back(worker)
        self.records[lease.trial].save(self._folder(lease.trial))

    def _folder(self, trial_id: str) -> Path:
        return self.project / f"trial_{trial_id}"

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Inside, nobody else is; a disk that cannot be written ends the search, for nothing new can be promised."""
        with self._lock:
            try:
                with released_on_error(self.oracle):
                    yield
            except OSError as error:
                self.halt("failed", cannot_write(self.project, error))
                raise CxrError(self.reason) from error

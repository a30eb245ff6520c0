"""The chief of a search: gives trials to workers, records their results, and survives the loss of workers.

KerasTuner's oracle decides what to try. Each running trial is leased to one process of one worker. A worker that is
silent for too long, or comes back as another process, loses the lease, and another worker resumes the trial from its
last checkpoint. Everything is on disk before the chief answers.
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
from tuner.cluster.oracles import Durable, make_oracle, planned, released_on_error
from tuner.cluster.protocol import BEAT_SECONDS, VERSION
from tuner.cluster.pruning import why_prune
from tuner.cluster.search_log import SearchLog
from tuner.results import cannot_write
from tuner.search_config import SearchConfig
from tuner.trial_result import TrialResult, load_trials, ranked

Outcome = Literal["completed", "pruned", "failed", "lost", "released"]
State = Literal["running", "complete", "failed", "stopped"]


@dataclasses.dataclass
class Lease:
    """A trial that a worker has.

    Attributes:
      trial, process: ids of the trial, and of the process that has it.
      begun, seen: when it was leased, and the last heartbeat, by the monotonic clock.
      epoch, fraction: epochs done, and the share of the next.
      images_per_second: of its last epoch, None before the first.
      doing: what the worker reports to do, e.g. `training`.
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
    """Gives out the trials of a search. Its methods may be called by many threads.

    Args:
      config: of the search.
      digest: of the data set's manifest; workers with another data set are refused.
      resume: continue the search that the project holds.
      lease_seconds: silence after which a worker is considered dead.
      hang_seconds: time without progress after which a worker ends itself.
      notify: called with a line for people at each event.

    Attributes:
      state, reason: of the search.
      leases: by worker.
      oracle: KerasTuner's.
      records: by trial, in the order in which they were made.
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
        self.log = SearchLog(self.project / "tensorboard", config)
        self.records: dict[str, TrialResult] = {}
        if resume and Path(self.oracle._get_oracle_fname()).exists():
            self.oracle.reload()
            self._load_records()
        else:
            self.oracle.save()
        self.planned_trials, self.planned_epochs = planned(self.oracle, config)

    def _load_records(self) -> None:
        """Of the trials that the oracle knows; one that has not ended waits for a worker."""
        self.records = {record.id: record for record in load_trials(self.project) if record.id in self.oracle.trials}
        for record in self.records.values():
            if record.id in self.oracle.end_order:
                continue
            if record.ended:  # saved just before the chief was killed
                self.oracle.give_again(record.worker, record.id)
                self._tell_oracle(record)
            else:
                record.status = "waiting"
                record.save(self.project)

    def join(self, worker: str, version: int, digest: str) -> dict[str, Any]:
        """A worker's first question; the answer is what all trials have in common.

        Raises:
          InputError: the worker has another version, or other data.
        """
        if version != VERSION:
            both = f"the chief has protocol version {VERSION} and {worker} version {version}"
            raise InputError(f"{both}; install the same cxr on both")
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
                self._lose(worker, ended or "it was restarted")
                lease = None
            if self.state == "running" and (trial := lease.trial if lease else self._take(worker, process)):
                return {"do": "run", "trial": trial, "config": self.records[trial].config}
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
        """A heartbeat, with the epochs since the last: `{"do": "go on" | "prune" | "leave", "reason": ...}`."""
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
                record.save(self.project)
                self.log.epochs(trial, rows)
            if self.state != "running":
                return {"do": "leave", "reason": self.reason}
            why = self._why_prune(record) if rows else None
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
        """The result of a trial.

        Args:
          worker, process, trial: who had which.
          outcome: `completed`, `pruned` or `failed`; `lost` if this worker cannot finish it but another might;
            `released` if the worker was asked to stop.
          message: why it was not completed.
          score: of the objective.
          best_epoch: epoch of the score, from 1.
          rows: all its epochs.
          parameters: number of weights of the model.
          seconds: time that this attempt took.
          fatal: whether other trials would fail as well, as on a full disk; ends the search.
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
                self._finish(worker, "failed", message or f"{self.config.objective} was not a number")
            else:
                record.score, record.best_epoch = score, best_epoch
                self._finish(worker, outcome, message)
            return {}

    def look_around(self) -> None:
        """Takes trials from workers that were silent for too long; to be called regularly."""
        with self._at_work():
            now = time.monotonic()
            deaf, self._looked = now - self._looked, now
            for worker, lease in list(self.leases.items()):
                if deaf > self.lease_seconds / 2:  # the oracle took long, and heartbeats had to wait
                    lease.seen = now
                if now - lease.seen > self.lease_seconds:
                    self._lose(worker, f"{worker} was silent for {now - lease.seen:.0f} s")

    def halt(self, state: State, reason: str) -> None:
        """Ends the search; workers are told so when they next ask, and their trials wait until it is resumed."""
        with self._lock:
            if self.state == "running":
                self.state, self.reason = state, reason
                self.notify(f"{state}: {reason}" if reason else state)

    def put_down(self) -> None:
        """Releases every trial that a worker has, and closes the log."""
        with self._lock:
            for worker in list(self.leases):
                with contextlib.suppress(OSError):
                    self._release(worker)
            self.log.close()

    def everybody_knows(self, but: Collection[str] = ()) -> bool:
        """Whether all recently active workers, except some, have been told that the search is over."""
        now = time.monotonic()
        with self._lock:
            active = {worker for worker, seen in self.seen.items() if now - seen < self.lease_seconds}
            return active - set(but) <= self._told

    def count(self) -> dict[str, int]:
        """Number of trials `completed` (including pruned ones), `failed`, `running` and `waiting`."""
        with self._lock:
            statuses = ["completed" if each.status == "pruned" else each.status for each in self.records.values()]
            return {status: statuses.count(status) for status in ("completed", "failed", "running", "waiting")}

    def leased(self) -> dict[str, Lease]:
        """Copies of the leases, by worker."""
        with self._lock:
            return {worker: dataclasses.replace(lease) for worker, lease in self.leases.items()}

    def best(self, count: int) -> list[TrialResult]:
        """The best trials so far that have a score."""
        with self._lock:
            return ranked(self.records.values(), self.config.goal.direction)[:count]

    def _take(self, worker: str, process: str) -> str | None:
        """Leases a waiting trial, or a new one, to the worker and returns its id; None where there is none now."""
        limit, oracle = self.config.limit, self.oracle
        if oracle.waiting or limit is None or len(oracle.trials) < limit:
            trial = oracle.create_trial(worker)
            if trial.status == TrialStatus.RUNNING:
                record = self.records.get(trial.trial_id) or self._record(trial)
                record.worker, record.attempts = worker, record.attempts + 1
                self._lease(worker, process, record)
                return record.id
            over = trial.status == TrialStatus.STOPPED
        else:
            over = True
        if over and not oracle.ongoing_trials and not oracle.waiting:
            self.halt("complete", "")
        return None

    def _record(self, trial: Trial) -> TrialResult:
        """The record of a new trial."""
        drawn, settings = trial.hyperparameters.values, self.config
        values = settings.space.chosen(drawn)
        config = settings.space.train_config(
            values, epochs=int(drawn.get("tuner/epochs", settings.epochs)), monitor=settings.goal.monitor,
            seed=settings.seed,
        )  # fmt: skip
        record = self.records[trial.trial_id] = TrialResult(trial.trial_id, values, config.resolved().to_json())
        self.log.begin(record)
        return record

    def _lease(self, worker: str, process: str, record: TrialResult) -> Lease:
        now = time.monotonic()
        lease = self.leases[worker] = Lease(record.id, process, now, now)
        record.status = "running"
        record.save(self.project)
        return lease

    def _lease_of(self, worker: str, process: str, trial_id: str, adopt: bool = True) -> Lease | None:
        """The lease of a process on a trial; `adopt` renews that of a worker that kept training without the chief."""
        now = time.monotonic()
        self.seen[worker] = now
        lease = self.leases.get(worker)
        if lease is None and adopt and self.state == "running" and self.oracle.give_again(worker, trial_id):
            lease = self._lease(worker, process, self.records[trial_id])
        if lease is None or lease.process != process or lease.trial != trial_id:
            return None
        lease.seen = now
        return lease

    def _why_prune(self, record: TrialResult) -> str | None:
        monitor = self.config.goal.monitor
        own = record.series(monitor)
        if not own or len(own) >= record.epochs:
            return None
        others = [
            other.series(monitor)
            for other in self.records.values()
            if other.epochs == record.epochs and other is not record
        ]
        return why_prune(self.config.pruner, own, others, MONITORS[monitor], self.config.factor)

    def _finish(self, worker: str, status: Literal["completed", "pruned", "failed"], message: str) -> None:
        """Ends a trial; the record is saved first, so that no trial ends in the oracle alone."""
        record = self.records[self.leases.pop(worker).trial]
        record.status, record.message = status, message or None
        record.save(self.project)
        self._tell_oracle(record)
        if status == "failed":
            self.notify(f"trial {record.id} failed: {record.message}")
        else:
            why = f", for {record.message}" if status == "pruned" else ""
            self.notify(f"trial {record.id} {status}: {self.config.objective} {record.score:.4f}{why}")
        last = [self.records[trial] for trial in self.oracle.end_order[-self.config.max_failures :]]
        if len(last) == self.config.max_failures and all(each.status == "failed" for each in last):
            self.halt("failed", f"{len(last)} trials in a row failed, the last because: {last[-1].message}")

    def _tell_oracle(self, record: TrialResult) -> None:
        """Ends a trial in the oracle and the log as its record has it."""
        trial, name = self.oracle.trials[record.id], self.config.objective
        trial.message = record.message
        trial.status = TrialStatus.COMPLETED if record.scored else TrialStatus.FAILED
        if record.scored:
            if not trial.metrics.exists(name):
                trial.metrics.register(name, direction=self.config.goal.direction)
            trial.metrics.update(name, record.score, step=record.best_epoch)
        self.oracle.end_trial(trial)
        self.log.end(record)

    def _lose(self, worker: str, how: str) -> None:
        """Takes the trial from a worker that will not finish it."""
        trial_id = self.leases[worker].trial
        record = self.records[trial_id]
        record.losses.append(how)
        if len(record.losses) >= self.config.max_attempts:
            times = f"{len(record.losses)} workers" if len(record.losses) > 1 else "the worker"
            self._finish(worker, "failed", f"{times} could not finish it, the last: {how}")
            return
        self._release(worker)
        self.notify(f"trial {trial_id} waits for another worker: {how}")

    def _release(self, worker: str) -> None:
        record = self.records[self.leases.pop(worker).trial]
        record.status = "waiting"
        if worker in self.oracle.ongoing_trials:
            self.oracle.take_back(worker)
        record.save(self.project)

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Holds the lock; ends the search if the disk cannot be written, since no new result could be kept."""
        with self._lock:
            try:
                with released_on_error(self.oracle):
                    yield
            except OSError as error:
                self.halt("failed", cannot_write(self.project, error))
                raise CxrError(self.reason) from error

"""The configuration of a search, stored in its project as JSON, and the resources it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from cxr.errors import InputError
from cxr.kinds import Choice, Kind, Parsed, Real, Text, Whole, directory
from cxr.options import Options, checked, option, options
from tfrecords.streaming.cache import CACHE_MODES
from tuner.objectives import OBJECTIVES, Objective
from tuner.space.space import Space

OracleName = Literal["hyperband", "bayesian", "random", "grid"]
PrunerName = Literal["median", "halving", "none"]
_WHERE, _SEARCH, _WORKERS = "what and where", "search", "workers"


def parse_address(text: str) -> tuple[str, int]:
    """HOST:PORT; a port of 0 is any that is free.

    Raises:
      InputError: it is none.
    """
    host, _, port = checked("address", ADDRESS, text).rpartition(":")
    return host, int(port)


def _address(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(value)
    return value


ADDRESS = Parsed(_address, "HOST:PORT, such as 127.0.0.1:7171", "HOST:PORT")


@options
class SearchConfig(Options):
    """Everything that determines the trials of a search.

    Oracles: `hyperband` (Li et al. 2018) gives many trials few epochs and the best of them more; `bayesian` fits a
    Gaussian process to the scores; `random`; `grid` tries every combination. Pruners stop a trial early, compared with
    others of as many epochs: `median`, when its best is worse than the median of the others (Golovin et al. 2017);
    `halving`, when it is not in the best 1/factor of those that came as far (Li et al. 2020).
    """

    title: ClassVar[str] = "search"

    data: str = option(directory(), "data set of `cxr preprocess`", shown=False)
    project: str = option(directory(), "directory of the search", shown=False)
    oracle: OracleName = option(Choice(get_args(OracleName)), "chooses what to try", default="hyperband", group=_SEARCH)
    objective: str = option(
        Choice(tuple(OBJECTIVES), "NAME"), "what to optimise, see below", default="val_auc", group=_WHERE
    )
    space: Space = option(Kind(), "what is varied", default_factory=lambda: Space.named("compact"), shown=False)
    epochs: int = option(Whole(1), "epochs of a trial; with hyperband at most", default=10, group=_SEARCH)
    max_trials: int | None = option(
        Whole(1), "number of trials", default=None, unset="20; with hyperband and grid as many as they plan",
        group=_SEARCH,
    )  # fmt: skip
    factor: int = option(
        Whole(2), "of hyperband and halving: one trial in N continues, with N times the epochs", default=3,
        group=_SEARCH,
    )  # fmt: skip
    pruner: PrunerName = option(Choice(get_args(PrunerName)), "stops bad trials early", default="median", group=_SEARCH)
    max_failures: int = option(Whole(1), "failed trials in a row that end the search", default=5, group=_SEARCH)
    max_attempts: int = option(
        Whole(1), "workers that a trial may kill before it counts as failed", default=3, group=_SEARCH
    )
    seed: int = option(Whole(0), "seed of the oracle and of every trial", default=0, group=_SEARCH)
    positive: str | None = option(
        Text(metavar="LABEL"), "of two labels, the finding", default=None, unset="the one not named like 'normal'",
        group=_WHERE,
    )  # fmt: skip

    def check(self) -> None:
        if not self.space.parameters and self.oracle != "grid":
            raise InputError(
                f"every hyperparameter is fixed, so there is one configuration only, and nothing for "
                f"oracle={self.oracle} to choose; train it with `cxr train`, or vary something"
            )
        if self.oracle == "grid" and self.max_trials is None and self.space.combinations() is None:
            endless = ", ".join(sorted({p.name for p in self.space.parameters if not p.values and p.step is None}))
            raise InputError(
                f"oracle=grid tries every combination, and these ranges have no end of values: {endless}. "
                "Narrow them to lists (--narrow NAME=A,B), or limit it with --max-trials"
            )

    @property
    def goal(self) -> Objective:
        """The objective."""
        return OBJECTIVES[self.objective]

    @property
    def limit(self) -> int | None:
        """Number of trials after which no new one is made; None where the oracle itself ends."""
        if self.max_trials is None and self.oracle in ("random", "bayesian"):
            return 20
        return self.max_trials

    def to_json(self) -> dict[str, Any]:
        """As values that JSON has; `from_json` reads them."""
        return {**super().to_json(), "space": self.space.to_json()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> SearchConfig:
        """From what `to_json` gave.

        Raises:
          InputError: a field is unknown or has a bad value.
        """
        return super().from_json({**fields, "space": Space.from_json(fields["space"])})


@options
class Resources(Options):
    """What a search runs on; may differ when it is resumed."""

    title: ClassVar[str] = "resources of a search"

    workers: int = option(
        Whole(0), "processes that train on this host, each with its share of the cores or a GPU of its own", default=1,
        unset="one for each GPU, else 1", group=_WORKERS,
    )  # fmt: skip
    bind: str = option(
        ADDRESS, "address that the chief listens on", default="127.0.0.1:0", unset="127.0.0.1, any free port",
        group=_WORKERS,
    )  # fmt: skip
    worker_trials: int = option(
        Whole(1), "trials after which a worker's process is replaced", default=8, group=_WORKERS
    )
    lease_seconds: float = option(
        Real(above=0, metavar="S"), "silence after which a worker is considered dead", default=60.0, group=_WORKERS
    )
    hang_seconds: float = option(
        Real(above=0, metavar="S"), "time without progress after which a worker is replaced", default=900.0,
        group=_WORKERS,
    )  # fmt: skip
    cache: str | None = option(
        Choice(CACHE_MODES), "where workers cache decoded images", default=None, unset="auto", group=_WORKERS
    )

    @property
    def stream(self) -> dict[str, Any]:
        """Options of every worker's stream."""
        return {} if self.cache is None else {"cache": self.cache}

"""`cxr tune`: searches for the best architecture and recipe on a data set. The command line of `launch.py`."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from typing import Any

from cxr.command import Command, Given
from cxr.console import EXIT_OK, run_command
from cxr.errors import InputError, UsageError
from cxr.kinds import Choice, Flag, Pairs, Real, Text, directory
from cxr.options import Options, option, options
from tuner.objectives import OBJECTIVES
from tuner.search_config import ADDRESS, Resources, SearchConfig
from tuner.space.space import Space

_WHERE, _WORKERS = "what and where", "workers"
_DESCRIPTION = """\
Searches over architectures and recipes: an oracle of KerasTuner chooses what to try, workers train each trial as
`cxr train` would, and every trial is kept. `cxr tune --project DIR --resume` continues
a search that was stopped or killed; finished trials are not run again."""
_OBJECTIVES = "\n".join(f"  {name:25}{goal.text}" for name, goal in OBJECTIVES.items())
_EPILOG = f"""\
objectives:
{_OBJECTIVES}

on several hosts, each with the same data set, and best with a shared project directory:
  chief$   cxr tune --role chief --bind 10.0.0.1:7171 --data data/cxr --project search
  others$  cxr tune --role worker --chief 10.0.0.1:7171 --data data/cxr --project search --workers 2
The protocol has no authentication and no encryption: use it only inside a network that you trust.

examples:
  cxr tune --data data/cxr --project search --workers 2
  cxr tune --data data/cxr --project search --oracle random --max-trials 40 --epochs 8 --fix model=cnn-separable
  cxr tune --data data/cxr --project search --narrow image_size=96,128 --narrow learning_rate=1e-3..1e-2
  cxr tune --data data/cxr --project notebooks --space notebooks --oracle grid --narrow preset=mlp-tanh,mlp,cnn3
  cxr tune --show-space --space full
  cxr tune --project search --resume --max-trials 60
  cxr tune-report search
  cxr board search
"""


@options
class TuneOptions(Options):
    """What and where `cxr tune` searches; how is `tuner.search_config.SearchConfig`."""

    data: str | None = option(
        directory(), "data set of `cxr preprocess`", default=None, unset="with --resume, the search's own",
        group=_WHERE,
    )  # fmt: skip
    project: str | None = option(directory(), "directory of the search", default=None, group=_WHERE)
    resume: bool = option(Flag(), "resume the search that is there", default=False, group=_WHERE)
    overwrite: bool = option(Flag(), "delete the search that is there", default=False, group=_WHERE)
    space: str = option(
        Text(metavar="NAME|FILE"), "compact, full, notebooks, or a JSON file, see docs/tuning.md", default="compact",
        group="space",
    )  # fmt: skip
    fix: Mapping[str, Any] | None = option(
        Pairs(), "the same in all trials; may be given several times", default=None, group="space"
    )
    narrow: Mapping[str, str] | None = option(
        Pairs("NAME=A,B|LOW..HIGH", texts=True), "only these values; may be given several times", default=None,
        group="space",
    )  # fmt: skip
    show_space: bool = option(Flag(), "show what would be varied, and stop", default=False, group="space", alone=True)
    role: str = option(
        Choice(("all", "chief", "worker")), "chief and workers, or only one of them", default="all", group=_WORKERS
    )
    chief: str | None = option(ADDRESS, "the chief, for --role worker", default=None, group=_WORKERS)
    chief_patience: float = option(
        Real(above=0, metavar="S"), "time that a worker waits for a silent chief", default=600.0, group=_WORKERS
    )
    quiet: bool = option(Flag(), "show no table", default=False, group=_WORKERS)


def run(given: Given) -> int:
    """Runs, or resumes, the search that a command line describes."""
    from trainer.training.stopping import Stopped
    from tuner.cluster.host import find_gpus
    from tuner.cluster.launch import search, work
    from tuner.tune_report import main as report

    asked = given.make(TuneOptions)
    if asked.show_space:
        print(choose_space(asked).describe())
        return EXIT_OK
    if asked.project is None:
        raise UsageError("--project is missing: the directory of the search")
    if asked.data is None and (asked.role == "worker" or not asked.resume):
        raise UsageError("--data is missing: the data set to search on (or --resume, to resume a search)")
    workers = 0 if asked.role == "chief" else max(1, len(find_gpus()))
    bind = "127.0.0.1:7171" if asked.role == "chief" else "127.0.0.1:0"
    resources = Resources(**{"workers": workers, "bind": bind, **given.of(Resources)})
    _check_role(asked, given, resources)
    try:
        if asked.role == "worker":
            work(
                str(asked.chief), str(asked.data), asked.project, resources, patience=asked.chief_patience,
                quiet=asked.quiet,
            )  # fmt: skip
            return EXIT_OK
        config = choose_config(asked, given)
        search(config, resources, resume=asked.resume, overwrite=asked.overwrite, quiet=asked.quiet)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal
    return report([asked.project])


def choose_config(asked: TuneOptions, given: Given) -> SearchConfig:
    """The configuration that the options make; with --resume, that of the project with what is given."""
    from tuner.project import load_config

    fields = {name: value for name, value in given.of(SearchConfig).items() if name not in ("project", "space")}
    if asked.resume:
        if given.keys() & {"space", "fix", "narrow"}:
            raise InputError("--resume keeps the space of the search; leave out --space, --fix and --narrow")
        return load_config(str(asked.project), **fields)
    return SearchConfig(**{**fields, "project": str(asked.project), "space": choose_space(asked)})


def choose_space(asked: TuneOptions) -> Space:
    """The space that --space, --fix and --narrow make."""
    space = Space.load(asked.space)
    if asked.fix:  # first: what is fixed may be what a narrowing is about
        space = space.fix(asked.fix)
    return space.narrow(asked.narrow) if asked.narrow else space


def _check_role(asked: TuneOptions, given: Given, resources: Resources) -> None:
    """Raises UsageError where options are for another role."""
    if asked.role == "worker":
        if asked.chief is None:
            raise UsageError(f"--role worker needs --chief HOST:PORT, such as {socket.gethostname()}:7171")
        chiefs = {*given.of(SearchConfig), "space", "fix", "narrow", "bind", "resume", "overwrite"}
        odd = [name for name in given if name in chiefs - {"data", "project"}]
        if odd:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in odd)
            raise UsageError(f"{names}: set by the chief, not with --role worker")
        if not resources.workers:
            raise UsageError("--workers 0: --role worker needs at least one")
    elif asked.chief is not None:
        raise UsageError(f"--chief is for --role worker; received --role {asked.role}")
    elif asked.role == "all" and not resources.workers:
        raise UsageError("--workers 0: a search needs at least one worker (or --role chief, for workers elsewhere)")


COMMAND = Command(
    "tune", _DESCRIPTION, run, (TuneOptions, SearchConfig, Resources), _EPILOG, needs="tune",
    groups=(_WHERE, "space", "search", _WORKERS),
)  # fmt: skip
main = COMMAND.main

if __name__ == "__main__":
    raise SystemExit(run_command(main))

"""`cxr tune`: searches for the best architecture and recipe on a data set. The command line of `launch.py`."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from cxr.console import EXIT_INTERRUPTED, EXIT_OK, run_command
from cxr.errors import InputError
from cxr.kinds import Pairs
from tuner.objectives import OBJECTIVES

_DESCRIPTION = """\
Searches over architectures and recipes: an oracle of KerasTuner chooses what to try, workers train each trial as
`cxr train` would, and every trial is kept. `cxr tune --project DIR --resume` continues
a search that was stopped or killed; finished trials are not run again."""
_EPILOG = """\
objectives:
{objectives}

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


def build_parser() -> argparse.ArgumentParser:
    """The command line of `cxr tune`."""
    objectives = "\n".join(f"  {name:25}{goal.text}" for name, goal in OBJECTIVES.items())
    parser = argparse.ArgumentParser(
        prog="cxr tune", description=_DESCRIPTION, epilog=_EPILOG.format(objectives=objectives),
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    what = parser.add_argument_group("what and where")
    what.add_argument("--data", metavar="DIR", help="data set of `cxr preprocess` (with --resume, the search's own)")
    what.add_argument("--project", metavar="DIR", help="directory of the search")
    what.add_argument("--resume", action="store_true", help="continue the search in the project")
    what.add_argument("--overwrite", action="store_true", help="delete the search in the project")
    what.add_argument("--objective", metavar="NAME", help="objective to optimise, see below (val_auc)")
    what.add_argument(
        "--positive", metavar="LABEL", help="of two labels, the finding (the one not named like 'normal')"
    )
    space = parser.add_argument_group("space")
    space.add_argument(
        "--space", metavar="NAME|FILE", help="compact, full, notebooks, or a JSON file, see the README (compact)"
    )
    space.add_argument(
        "--fix", action="append", metavar="NAME=VALUE", help="the same in all trials; may be given several times"
    )
    space.add_argument(
        "--narrow", action="append", metavar="NAME=A,B|LOW..HIGH", help="only these values; may be given several times"
    )
    space.add_argument("--show-space", action="store_true", help="show what would be varied, and stop")
    how = parser.add_argument_group("search")
    how.add_argument("--oracle", metavar="NAME", help="hyperband, bayesian, random or grid (hyperband)")
    how.add_argument("--max-trials", type=int, metavar="N", help="trials (20; with hyperband and grid all they have)")
    how.add_argument("--epochs", type=int, metavar="N", help="epochs a trial, with hyperband at most (10)")
    how.add_argument(
        "--factor", type=int, metavar="N", help="of hyperband and halving: one in N continues, for N times as long (3)"
    )
    how.add_argument("--pruner", metavar="NAME", help="stops bad trials early: median, halving or none (median)")
    how.add_argument("--seed", type=int, metavar="N", help="of the oracle and of all trials (0)")
    how.add_argument("--max-failures", type=int, metavar="N", help="failed trials in a row that end the search (5)")
    how.add_argument(
        "--max-attempts", type=int, metavar="N", help="workers that a trial may kill before it counts as failed (3)"
    )
    machine = parser.add_argument_group("workers")
    machine.add_argument(
        "--workers", type=int, metavar="N",
        help="processes on this host, each with its share of the cores, or a GPU of its own (one a GPU, else 1)",
    )  # fmt: skip
    machine.add_argument(
        "--role", choices=("all", "chief", "worker"), help="chief and workers, or only one of them (all)"
    )
    machine.add_argument("--bind", metavar="HOST:PORT", help="what the chief listens on (127.0.0.1, any free port)")
    machine.add_argument("--chief", metavar="HOST:PORT", help="the chief, for --role worker")
    machine.add_argument(
        "--worker-trials", type=int, metavar="N", help="trials after which a worker's process is replaced (8)"
    )
    machine.add_argument(
        "--lease-seconds", type=float, metavar="S", help="silence after which a worker is taken for dead (60)"
    )
    machine.add_argument(
        "--hang-seconds", type=float, metavar="S", help="time without progress after which a worker is replaced (900)"
    )
    machine.add_argument(
        "--chief-patience",
        type=float,
        metavar="S",
        help="time that a worker waits for a silent chief (600)",
    )
    machine.add_argument("--cache", metavar="auto|memory|disk|none", help="where workers cache fitted images (auto)")
    machine.add_argument("--quiet", action="store_true", help="show no table")
    return parser


_SEARCH = ("oracle", "objective", "epochs", "max_trials", "factor", "pruner", "max_failures", "max_attempts", "seed",
           "positive")  # fmt: skip
_RESOURCES = ("workers", "bind", "worker_trials", "lease_seconds", "hang_seconds", "cache")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cxr tune`; returns its exit status."""
    parser = build_parser()
    given = vars(parser.parse_args(argv))
    role = given.get("role", "all")

    from trainer.training.stopping import Stopped
    from tuner.cluster.host import find_gpus
    from tuner.cluster.launch import Resources, search, work
    from tuner.tune_report import main as report

    if given.get("show_space"):
        print(choose_space(given).describe())
        return EXIT_OK
    for name, needed in (("project", True), ("data", not given.get("resume") or role == "worker")):
        if needed and name not in given:
            raise InputError(f"--{name} is missing: {_MISSING[name]}")
    workers = given.get("workers", 0 if role == "chief" else max(1, len(find_gpus())))
    resources = Resources(
        **{"workers": workers, "bind": "127.0.0.1:7171" if role == "chief" else "127.0.0.1:0"}
        | {name: given[name] for name in _RESOURCES if name in given}
    )
    _check_role(role, given, resources)
    quiet = given.get("quiet", False)
    try:
        if role == "worker":
            work(
                given["chief"], given["data"], given["project"], resources,
                patience=given.get("chief_patience", 600.0), quiet=quiet,
            )  # fmt: skip
            return EXIT_OK
        search(
            choose_config(given), resources, resume=given.get("resume", False), overwrite=given.get("overwrite", False),
            quiet=quiet,
        )  # fmt: skip
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return EXIT_INTERRUPTED if stopped.signal == signal.SIGINT else 128 + stopped.signal
    return report([given["project"]])


def choose_config(given: dict[str, Any]) -> Any:
    """The `SearchConfig` that the options make; with --resume, that of the project with what is given."""
    from tuner.project import load_config
    from tuner.search_config import SearchConfig

    fields = {name: given[name] for name in _SEARCH if name in given}
    if "data" in given:
        fields["data"] = given["data"]
    spaced = any(name in given for name in ("space", "fix", "narrow"))
    if given.get("resume"):
        if spaced:
            raise InputError("--resume keeps the space of the search; leave out --space, --fix and --narrow")
        return load_config(given["project"], **fields)
    return SearchConfig(project=given["project"], space=choose_space(given), **fields)


def choose_space(given: dict[str, Any]) -> Any:
    """The `Space` that --space, --fix and --narrow make."""
    from tuner.space.space import Space

    space = Space.load(given.get("space", "compact"))
    if "fix" in given:  # first: what is fixed may be what a narrowing is about
        space = space.fix({name: value for pair in given["fix"] for name, value in Pairs().parse(pair).items()})
    if "narrow" in given:
        space = space.narrow(dict(_split(pair) for pair in given["narrow"]))
    return space


_MISSING = {
    "project": "the directory of the search",
    "data": "the data set to search on (or --resume, to continue a search)",
}


def _split(pair: str) -> tuple[str, str]:
    name, sign, text = pair.partition("=")
    if not sign or not name or not text:
        raise InputError(f"--narrow {pair}: expected NAME=A,B or NAME=LOW..HIGH")
    return name.replace("-", "_"), text


def _check_role(role: str, given: dict[str, Any], resources: Any) -> None:
    """Raises InputError where options are for another role."""
    if role == "worker":
        if "chief" not in given:
            raise InputError(f"--role worker needs --chief HOST:PORT, such as {socket.gethostname()}:7171")
        odd = [name for name in (*_SEARCH, "space", "fix", "narrow", "bind", "resume", "overwrite") if name in given]
        if odd:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in odd)
            raise InputError(f"{names}: decided by the chief, not for --role worker")
        if not resources.workers:
            raise InputError("--workers 0: --role worker needs at least one")
    elif "chief" in given:
        raise InputError(f"--chief is for --role worker; received --role {role}")
    elif role == "all" and not resources.workers:
        raise InputError("--workers 0: a search needs at least one worker (or --role chief, for workers elsewhere)")


if __name__ == "__main__":
    raise SystemExit(run_command(main))

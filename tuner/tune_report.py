"""`cxr tune-report`: ranks what a search found, says what mattered, and trains the best again."""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr.console import EXIT_INTERRUPTED, EXIT_OK, run_command
from cxr.errors import InputError

if TYPE_CHECKING:
    from tuner.report.importance import Importances
    from tuner.results import SearchResult

_DESCRIPTION = """\
Ranks the trials of a search, says which hyperparameters mattered and what a good score costs, and writes a page, a
table, and the best configuration as a file for `cxr train`. The search may still be running."""
_EPILOG = """\
writes PROJECT/report/: index.html (one file, to be handed on), trials.csv, best.json. With --final also PROJECT/final/:
a training run for each configuration and seed, evaluated under shifts of the images; stopped, it goes on where it was.

examples:
  cxr tune-report search
  cxr tune-report search --final 2 --seeds 0,1,2 --baseline cnn-separable
  cxr train --data data/cxr --run runs/best --config search/report/best.json
"""
_TOP = 10
_COLUMNS = 3
"""Hyperparameters in the ranking that is printed."""
_REASONS = 3


def build_parser() -> argparse.ArgumentParser:
    """The command line of `cxr tune-report`."""
    parser = argparse.ArgumentParser(
        prog="cxr tune-report", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("project", metavar="PROJECT", help="directory of the search")
    parser.add_argument("--output", metavar="DIR", help="where to write (PROJECT/report)")
    parser.add_argument("--top", type=int, default=_TOP, metavar="N", help=f"rows of the ranking to print ({_TOP})")
    parser.add_argument("--quiet", action="store_true", help="print only where the files are; no progress bar")
    final = parser.add_argument_group("training the best again")
    final.add_argument(
        "--final", type=int, default=0, metavar="K", help="train the K best again, and evaluate them (0)"
    )
    final.add_argument("--seeds", default="0,1,2", metavar="A,B", help="seeds of those runs (0,1,2)")
    final.add_argument("--epochs", type=int, metavar="N", help="epochs of those runs (the search's)")
    final.add_argument("--split", default="val", metavar="NAME", help="split that they are evaluated on (val)")
    final.add_argument(
        "--baseline", action="append", default=[], metavar="PRESET|FILE",
        help="trained and evaluated beside them; may be given several times",
    )  # fmt: skip
    final.add_argument("--data", metavar="DIR", help="data set for them (the search's own)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cxr tune-report`; returns its exit status."""
    arguments = build_parser().parse_args(argv)

    from trainer.training.stopping import Stopped
    from tuner.final_runs import read_finals, train_finals
    from tuner.report import PAGE_NAME, hyperparameter_importance, write_report
    from tuner.results import read_search

    if arguments.top < 1 or arguments.final < 0:
        raise InputError(f"--top {arguments.top} --final {arguments.final}: expected whole numbers from 1, and from 0")
    seeds = _seeds(arguments.seeds)
    search = read_search(arguments.project)
    if arguments.final:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        try:
            train_finals(
                search, arguments.final, seeds, split=arguments.split, baselines=arguments.baseline,
                epochs=arguments.epochs, data=arguments.data, quiet=arguments.quiet,
            )  # fmt: skip
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            return EXIT_INTERRUPTED if stopped.signal == signal.SIGINT else 128 + stopped.signal
    finals = read_finals(search.project)
    importances = hyperparameter_importance(search)
    folder = Path(arguments.output) if arguments.output else None
    folder = write_report(search, folder, importances=importances, finals=finals)
    if not arguments.quiet:
        print(summarize(search, arguments.top, importances))
        if finals:
            print(f"\n{_finals_text(finals)}")
        print()
    print(_next_steps(search, folder, PAGE_NAME))
    return EXIT_OK


def summarize(search: SearchResult, top: int = _TOP, importances: Importances | None = None) -> str:
    """What a search has found, as text: the ranking, how trials stand, why some failed, and what mattered.

    Args:
      search: finished or not.
      top: rows of the ranking.
      importances: of the hyperparameters, where they are known already.
    """
    from tuner.report.importance import hyperparameter_importance
    from tuner.report.search_words import comparable, described, headline, mattered, shorter_than_others, standing
    from tuner.report.trial_rows import IN_HEAD, NUMBERS, failures, ranking, shown_hyperparameters

    importances = importances or hyperparameter_importance(search)
    head, rows = ranking(search, shown_hyperparameters(search, importances.names, _COLUMNS, IN_HEAD), top)
    parts = [f"{headline(search)}{f' {described(search.best)}' if search.best else ''}\n{standing(search)}"]
    if rows:
        parts.append(_table(head, rows, NUMBERS))
    left = len(search.ranked) - len(rows)
    rest = f"{left} more in trials.csv." if left else ""
    notes = " ".join(note for note in (rest, comparable(search), shorter_than_others(search)) if note)
    found = failures(search)
    reasons = [f"failed ({len(failure.trials)}): {failure.reason}" for failure in found[:_REASONS]]
    if len(found) > _REASONS:
        reasons.append(f"failed ({sum(len(failure.trials) for failure in found[_REASONS:])}): for other reasons")
    return "\n\n".join(part for part in (*parts, notes, "\n".join(reasons), mattered(importances)) if part)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of as many columns as the terminal is wide enough for; at least three."""
    from tabulate import tabulate

    # tabulate pads each name by 2, and puts 2 spaces between columns
    widths = [max(len(name) + 2, *map(len, cells)) + 2 for name, *cells in zip(head, *rows, strict=True)]
    room = shutil.get_terminal_size((160, 24)).columns + 2
    shown = max(3, sum(total <= room for total in itertools.accumulate(widths)))
    aligned = ["right" if column in numbers else "left" for column in range(shown)][: len(head)]
    return tabulate([row[:shown] for row in rows], head[:shown], disable_numparse=True, colalign=aligned)


def _finals_text(finals: Mapping[str, Any]) -> str:
    from tuner.final_runs import final_rows

    head, rows = final_rows(finals)
    seeds = ", ".join(map(str, finals["seeds"]))
    return f"The best, trained again with seeds {seeds}, on '{finals['split']}':\n{_table(head, rows)}"


def _next_steps(search: SearchResult, folder: Path, page: str) -> str:
    from tuner.report import BEST_NAME, TABLE_NAME
    from tuner.report.search_words import train_command

    lines = [
        f"open it:   {folder / page}",
        f"all of it: {folder / TABLE_NAME}",
        f"watch it:  cxr board {search.project}",
    ]
    if search.best is not None:
        lines.append(f"train it:  {train_command(search, search.best, folder / BEST_NAME)}")
    return "\n".join(lines)


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise InputError(f"--seeds {text}: expected whole numbers with commas, such as 0,1,2") from error
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise InputError(f"--seeds {text}: expected different whole numbers, at least 0")
    return seeds


if __name__ == "__main__":
    sys.exit(run_command(main))

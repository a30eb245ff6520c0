"""`cxr tune-report`: ranks the trials of a search, says which hyperparameters mattered, and trains the best again."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cxr.command import Command, Given
from cxr.console import EXIT_OK, run_command
from cxr.kinds import Flag, Several, Text, Whole, directory
from cxr.options import Options, option, options

if TYPE_CHECKING:
    from tuner.report.importance import Importances
    from tuner.results import SearchResult

_DESCRIPTION = """\
Ranks the trials of a search, says which hyperparameters mattered and what a good score costs, and writes a page, a
table, and the best configuration as a file for `cxr train`. The search may still be running."""
_EPILOG = """\
writes PROJECT/report/: index.html (one file), trials.csv, best.json. With --final also PROJECT/final/: a training run
for each configuration and seed, evaluated under shifts of the images; stopped, it continues where it was.

examples:
  cxr tune-report search
  cxr tune-report search --final 2 --seeds 0,1,2 --baseline cnn-separable
  cxr train --data data/cxr --run runs/best --config search/report/best.json
"""
_TOP = 10
_AGAIN = "training the best again"
_COLUMNS = 3
"""Hyperparameters in the ranking that is printed."""
_REASONS = 3


@options
class ReportOptions(Options):
    """What `cxr tune-report` reports, and what it trains again."""

    project: str = option(directory("PROJECT"), "directory of the search", positional=True)
    output: str | None = option(directory(), "where to write", default=None, unset="PROJECT/report")
    top: int = option(Whole(1), "rows of the ranking to print", default=_TOP)
    quiet: bool = option(Flag(), "print only where the files are; no progress bar", default=False)
    final: int = option(Whole(0, metavar="K"), "train the K best again, and evaluate them", default=0, group=_AGAIN)
    seeds: tuple[int, ...] = option(
        Several(Whole(0), distinct=True), "seeds of those runs", default=(0, 1, 2), group=_AGAIN
    )
    epochs: int | None = option(Whole(1), "epochs of those runs", default=None, unset="the search's", group=_AGAIN)
    split: str = option(Text(metavar="NAME"), "split that they are evaluated on", default="val", group=_AGAIN)
    baseline: tuple[str, ...] = option(
        Several(Text(metavar="PRESET|FILE"), 0, metavar="PRESET|FILE"),
        "trained and evaluated beside them; may be given several times", default=(), group=_AGAIN, repeated=True,
    )  # fmt: skip
    data: str | None = option(directory(), "data set for them", default=None, unset="the search's own", group=_AGAIN)


def run(given: Given) -> int:
    """Writes the report of the search that a command line names."""
    asked = given.make(ReportOptions)

    from trainer.training.stopping import Stopped
    from tuner.report import BEST_NAME, PAGE_NAME, TABLE_NAME, hyperparameter_importance, write_report
    from tuner.report.search_words import train_command
    from tuner.results import read_search
    from tuner.retraining import read_retrained, retrain_best, retrained_rows

    search = read_search(asked.project)
    if asked.final:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        try:
            retrain_best(
                search, asked.final, asked.seeds, split=asked.split, baselines=asked.baseline,
                epochs=asked.epochs, data=asked.data, quiet=asked.quiet,
            )  # fmt: skip
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            return 128 + stopped.signal
    finals = read_retrained(search.project)
    importances = hyperparameter_importance(search)
    output = Path(asked.output) if asked.output else None
    folder = write_report(search, output, importances=importances, finals=finals)
    if not asked.quiet:
        print(summarize(search, asked.top, importances))
        if finals:
            head, rows = retrained_rows(finals)
            seeds = ", ".join(map(str, finals["seeds"]))
            print(f"\nThe best, trained again with seeds {seeds}, on '{finals['split']}':\n{_table(head, rows)}")
        print()
    print(f"open it:   {folder / PAGE_NAME}\nall of it: {folder / TABLE_NAME}\nwatch it:  cxr board {search.project}")
    if search.best is not None:
        print(f"train it:  {train_command(search, search.best, folder / BEST_NAME)}")
    return EXIT_OK


def summarize(search: SearchResult, top: int = _TOP, importances: Importances | None = None) -> str:
    """A search as text: the `top` of the ranking, the number of trials by status, why some failed, what mattered."""
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
    found = [(len(trials), reason) for reason, trials in failures(search).items()]
    reasons = [f"failed ({count}): {reason}" for count, reason in found[:_REASONS]]
    if len(found) > _REASONS:
        reasons.append(f"failed ({sum(count for count, _ in found[_REASONS:])}): for other reasons")
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


COMMAND = Command("tune-report", _DESCRIPTION, run, ReportOptions, _EPILOG, needs="report")
main = COMMAND.main

if __name__ == "__main__":
    sys.exit(run_command(main))

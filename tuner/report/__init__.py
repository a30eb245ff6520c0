"""The report of a search: a page, a table, and the best configuration as a file that `cxr train --config` takes.

importance  which hyperparameters mattered
pareto      which trials are not beaten in both score and cost
tables      the search as rows
words       what was found, in sentences
plots       figures
sections    the page

How it looks is the trainer's, see `trainer.report`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr.errors import OutputError
from cxr.files import write_atomically
from tuner.report.importance import Importances, hyperparameter_importance
from tuner.results import SearchResult

PAGE_NAME, TABLE_NAME, BEST_NAME = "index.html", "trials.csv", "best.json"
"""The files."""


def write_report(
    search: SearchResult,
    folder: Path | None = None,
    *,
    importances: Importances | None = None,
    finals: Mapping[str, Any] | None = None,
    top: int = 8,
) -> Path:
    """Writes `index.html`, `trials.csv` and, where a trial has a score, `best.json`; replaces those that are there.

    The page needs no other file and no network.

    Args:
      search: finished or not, with any number of trials.
      folder: made where it does not exist; None for PROJECT/report.
      importances: of the hyperparameters, where they are known already.
      finals: what training the best again gave, see `tuner.retraining`; None where that was not done.
      top: trials whose curves stand out from the others, at most 8.

    Returns:
      The folder.

    Raises:
      InputError: the project was made by another version.
      OutputError: a file cannot be written.
    """
    from tuner.report.tables import to_csv

    folder = folder or search.project / "report"
    importances = importances or hyperparameter_importance(search)
    text = _page(search, folder / BEST_NAME, importances, finals, top)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / TABLE_NAME, to_csv(search))
        if search.best is not None:
            write_atomically(folder / BEST_NAME, json.dumps(dict(search.best.config), indent=2) + "\n")
        else:
            (folder / BEST_NAME).unlink(missing_ok=True)  # of a search that was here before
        write_atomically(folder / PAGE_NAME, text)
    except OSError as error:
        raise OutputError(
            f"the report in {folder} cannot be written: {error.strerror or error}. Give another place by --output DIR"
        ) from error
    return folder


def _page(
    search: SearchResult, best_file: Path, importances: Importances, finals: Mapping[str, Any] | None, top: int
) -> str:
    from trainer.report.markup import page
    from trainer.report.sections import DISCLAIMER
    from tuner.report import search_sections as sections

    content = [("The result", sections.summary_section(search, best_file))]
    if finals:
        from tuner.retraining import retrained_rows

        content.append(("The best, trained again", sections.finals_section(finals, *retrained_rows(finals))))
    content += [
        ("Ranking", sections.ranking_section(search, importances)),
        ("Failed and pruned", sections.failures_section(search)),
        ("How the search went", sections.course_section(search, top)),
        ("What mattered", sections.hyperparameters_section(search, importances)),
        ("What a score costs", sections.cost_section(search)),
        ("What was searched", sections.space_section(search)),
        ("The best configuration", sections.best_section(search)),
    ]
    return page(f"Search {search.project.resolve().name}", DISCLAIMER, content)

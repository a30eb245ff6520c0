"""The report of a search: a page, a table, and the best configuration as a file that `cxr train --config` takes.

importance    importance of the hyperparameters
trial_rows    the search as rows
search_words  results in sentences
search_plots  figures
search_page   data of the page; its template is search.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr.errors import OutputError
from cxr.files import write_atomically, write_json
from tuner.report.importance import Importances, hyperparameter_importance
from tuner.results import SearchResult

PAGE_NAME, TABLE_NAME, BEST_NAME = "index.html", "trials.csv", "best.json"
"""The files."""


def write_report(
    search: SearchResult, folder: Path | None = None, *, importances: Importances | None = None,
    finals: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Writes `index.html`, `trials.csv` and, if a trial has a score, `best.json`; replaces existing ones.

    The page needs no other file and no network.

    Args:
      search: finished or not, with any number of trials.
      folder: created if it does not exist; None for PROJECT/report.
      importances: of the hyperparameters, if already known.
      finals: results of the final runs, see `tuner.retraining`; None if there are none.

    Returns:
      The folder.

    Raises:
      InputError: the project was made by another version.
      OutputError: a file cannot be written.
    """
    from tuner.report.search_page import search_page
    from tuner.report.trial_rows import to_csv

    folder = folder or search.project / "report"
    importances = importances or hyperparameter_importance(search)
    text = search_page(search, folder / BEST_NAME, importances, finals)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / TABLE_NAME, to_csv(search))
        if search.best is not None:
            write_json(folder / BEST_NAME, dict(search.best.config))
        else:
            (folder / BEST_NAME).unlink(missing_ok=True)  # of a search that was here before
        write_atomically(folder / PAGE_NAME, text)
    except OSError as error:
        raise OutputError(
            f"the report in {folder} cannot be written: {error.strerror or error}. Give another place by --output DIR"
        ) from error
    return folder

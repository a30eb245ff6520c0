"""The directory of a search before a chief runs in it: whether a search may start or be resumed there."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from cxr.errors import DatasetError, InputError, OutputError
from trainer.facts import DataFacts
from tuner.results import SEARCH_NAME, read_search_file
from tuner.search_config import SearchConfig

_OURS = ("oracle.json", "runs", "logs", "tensorboard", "report", "final", SEARCH_NAME)
_CHANGEABLE = ("data", "project", "max_trials", "max_failures", "max_attempts")
"""Settings that may differ when a search is resumed."""


def load_config(project: str | Path, **changes: Any) -> SearchConfig:
    """The configuration of a project's search, to resume it.

    Args:
      project: directory of the search.
      changes: `max_trials`, `max_failures`, `data` and the like.

    Raises:
      DatasetError: the directory holds no search, or one of another version.
    """
    fields = read_search_file(Path(project))
    try:
        config = SearchConfig.from_json({**fields["settings"], "project": str(project)})
    except (InputError, KeyError, TypeError) as error:
        raise DatasetError(f"{Path(project) / SEARCH_NAME} is damaged, or of another version: {error}") from error
    return dataclasses.replace(config, **changes)


def check_project(project: Path, resume: bool, overwrite: bool) -> None:
    """Raises unless a search may start in the directory, or be resumed.

    Raises:
      InputError: both are asked for.
      DatasetError: there is no search to resume.
      OutputError: the directory holds something already.
    """
    if resume and overwrite:
        raise InputError("--resume continues a search and --overwrite deletes it; choose one")
    if resume:
        read_search_file(project)
        return
    if project.exists() and not project.is_dir():
        raise OutputError(f"{project} is a file; --project names the directory of the search")
    content = sorted(path.name for path in project.glob("*") if path.name != ".lock")
    if content and SEARCH_NAME not in content:
        raise OutputError(f"{project} holds something that is no search ({content[0]}, ...); choose another --project")
    if content and not overwrite:
        raise OutputError(f"{project} holds a search already; --resume continues it, --overwrite deletes it")


def check_same(project: Path, config: SearchConfig, facts: DataFacts) -> None:
    """Raises InputError unless the project's search has this configuration, and was started on this data."""
    fields = read_search_file(project)
    now = json.loads(json.dumps(config.to_json()))  # as it was stored: lists, not tuples
    changed = [name for name, value in fields["settings"].items() if name not in _CHANGEABLE and now[name] != value]
    if changed:
        what = ", ".join(f"{name} was {fields['settings'][name]!r}" for name in changed if name != "space")
        raise InputError(
            f"the search in {project} cannot be resumed with other settings: {what or 'the space differs'}. "
            "Leave them out, or choose another --project"
        )
    if fields["data"]["digest"] != facts.digest:
        raise InputError(f"the search in {project} was started on other data than {config.data}; give the same --data")


def clear(project: Path) -> None:
    """Deletes a search, and nothing else that is in its directory."""
    for path in [*project.glob("trial_*"), *(project / name for name in _OURS)]:  # the file that names it ours last
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

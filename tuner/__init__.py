"""Architecture search over the trainer, in many processes and on many hosts, with KerasTuner's oracles.

    import tuner

    found = tuner.search(tuner.SearchConfig(data="data/cxr", project="search", max_trials=20, oracle="random"))
    found.best.config

Names are imported on first use: a worker's process needs few of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.cluster.launch import search, work
    from tuner.project import load_config
    from tuner.results import SearchResult, TrialResult, read_search
    from tuner.search_config import Resources, SearchConfig
    from tuner.space.parameter import Parameter
    from tuner.space.space import Space

__all__ = ["Parameter", "Resources", "SearchConfig", "SearchResult", "Space", "TrialResult", "load_config",
           "read_search", "search", "work"]  # fmt: skip
_HOMES = {
    "search_config": ("Resources", "SearchConfig"),
    "cluster.launch": ("search", "work"),
    "project": ("load_config",),
    "results": ("SearchResult", "TrialResult", "read_search"),
    "space.parameter": ("Parameter",),
    "space.space": ("Space",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"tuner.{module}"), name)
    raise AttributeError(f"module 'tuner' has no attribute '{name}'")

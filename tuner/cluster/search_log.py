"""A search in TensorBoard: hyperparameters and scores in HParams, and the curves of each trial, a folder each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

from cxr.events import EventWriter
from tuner.search_config import SearchConfig
from tuner.space.space import Space
from tuner.trial_result import TrialResult

METRICS = ("score", "parameters", "images_per_second", "epochs")
"""The metrics that HParams compares trials by; written once, when a trial has ended."""
_CURVES = "epoch/"


class SearchLog:
    """Writes a search for TensorBoard.

    All hyperparameters are declared once, in the folder itself and before any trial: otherwise TensorBoard takes those
    of the first trial for all there are. A trial names those that matter to it. The folder is made if there is none.
    """

    def __init__(self, folder: Path, config: SearchConfig):
        self.folder = folder
        self._writers: dict[str, EventWriter] = {}
        declared = [_declare(config.space, name) for name in config.space.names]
        with EventWriter(folder) as events:
            events.summary(hparams.hparams_config_pb(declared, [hparams.Metric(name) for name in METRICS], time.time()))

    def begin(self, trial: TrialResult) -> None:
        """Declares a trial by its hyperparameters."""
        events = self._writer(trial.id)
        events.summary(hparams.hparams_pb(dict(trial.values), trial.id))
        events.flush()

    def epochs(self, trial: str, rows: Sequence[Mapping[str, float]]) -> None:
        """Adds points to a trial's curves."""
        for row in rows:
            curves = {_CURVES + name: value for name, value in row.items() if name != "epoch"}
            self._writer(trial).scalars(curves, step=int(row["epoch"]))

    def end(self, trial: TrialResult) -> None:
        """Ends a trial, with the metrics that HParams compares trials by."""
        epochs = len(trial.history)
        found = zip(METRICS, (trial.score, trial.parameters, trial.images_per_second, epochs), strict=True)
        status = STATUS_SUCCESS if trial.scored else STATUS_FAILURE
        data = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=time.time()))
        about, tag = metadata.create_summary_metadata(data), metadata.SESSION_END_INFO_TAG
        with self._writer(trial.id) as events:
            events.scalars({name: float(value) for name, value in found if value is not None}, step=epochs)
            events.summary(Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)]))
        del self._writers[trial.id]

    def close(self) -> None:
        """Writes what is left to the disk."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, trial: str) -> EventWriter:
        if trial not in self._writers:
            self._writers[trial] = EventWriter(self.folder / trial)
        return self._writers[trial]


def _declare(space: Space, name: str) -> hparams.HParam:
    """A hyperparameter with its values under any condition."""
    variants = space.variants(name)
    values = [value for parameter in variants for value in parameter.samples]
    if all(parameter.values for parameter in variants):
        domain = hparams.Discrete(sorted(set(values)))
    else:
        domain = hparams.RealInterval(float(min(values)), float(max(values)))
    return hparams.HParam(name, domain, description=variants[0].about)

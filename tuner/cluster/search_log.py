"""A search in TensorBoard: hyperparameters and scores in HParams, and the curves of each trial, a folder each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import (
    DATA_TYPE_BOOL,
    DATA_TYPE_FLOAT64,
    DATA_TYPE_STRING,
    STATUS_FAILURE,
    STATUS_SUCCESS,
    Experiment,
    HParamInfo,
    MetricInfo,
    MetricName,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

from cxr.events import EventWriter
from tuner.record import Record
from tuner.search_config import SearchConfig
from tuner.space.space import Space

METRICS = ("score", "parameters", "images_per_second", "epochs")
"""What HParams compares trials by; written once, when a trial has ended."""
_CURVES = "epoch/"


class SearchLog:
    """Writes what TensorBoard shows of a search.

    All hyperparameters are declared once, in the folder itself and before any trial: else TensorBoard takes those of
    the first trial for all there are. A trial names those that matter to it.

    Args:
      folder: of the search; made where it does not exist.
      config: of the search.
    """

    def __init__(self, folder: Path, config: SearchConfig):
        self.folder, self._names = folder, {parameter.name for parameter in config.space.parameters}
        self._writers: dict[str, EventWriter] = {}
        experiment = Experiment(
            description=f"{config.oracle} search for the best {config.objective} on {config.data}",
            time_created_secs=time.time(),
            hparam_infos=_declare(config.space),
            metric_infos=[MetricInfo(name=MetricName(tag=name)) for name in METRICS],
        )
        with EventWriter(folder) as events:
            events.summary(_summary(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment)))

    def begin(self, trial: str, values: Mapping[str, Any]) -> None:
        """Declares a trial by its hyperparameters."""
        started = SessionStartInfo(group_name=trial, start_time_secs=time.time())
        for name in self._names & set(values):
            value, slot = values[name], started.hparams[name]
            if isinstance(value, bool):
                slot.bool_value = value
            elif isinstance(value, (int, float)):
                slot.number_value = value
            else:
                slot.string_value = str(value)
        data = HParamsPluginData(session_start_info=started)
        self._writer(trial).summary(_summary(metadata.SESSION_START_INFO_TAG, data))
        self._writer(trial).flush()

    def epochs(self, trial: str, rows: Sequence[Mapping[str, float]]) -> None:
        """Adds points to a trial's curves."""
        for row in rows:
            curves = {_CURVES + name: value for name, value in row.items() if name != "epoch"}
            self._writer(trial).scalars(curves, step=int(row["epoch"]))

    def end(self, trial: str, record: Record, score: float | None) -> None:
        """Ends a trial, with what it is compared by."""
        epochs = len(record.history)
        found = zip(METRICS, (score, record.parameters, record.images_per_second, epochs), strict=True)
        with self._writer(trial) as events:
            events.scalars({name: float(value) for name, value in found if value is not None}, step=epochs)
            end = SessionEndInfo(status=STATUS_FAILURE if score is None else STATUS_SUCCESS, end_time_secs=time.time())
            events.summary(_summary(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end)))
        self._writers.pop(trial, None)

    def close(self) -> None:
        """Takes what is left to the disk."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, trial: str) -> EventWriter:
        if trial not in self._writers:
            self._writers[trial] = EventWriter(self.folder / trial)
        return self._writers[trial]


def _declare(space: Space) -> list[HParamInfo]:
    """Each hyperparameter once, with its values under any condition."""
    found = []
    for name in dict.fromkeys(parameter.name for parameter in space.parameters):
        parameters = [parameter for parameter in space.parameters if parameter.name == name]
        values = list(dict.fromkeys(value for parameter in parameters for value in parameter.values))
        info = HParamInfo(name=name, description=parameters[0].about, type=DATA_TYPE_FLOAT64)
        if values and all(isinstance(value, bool) for value in values):
            info.type = DATA_TYPE_BOOL
        elif any(isinstance(value, str) for value in values):
            info.type = DATA_TYPE_STRING
        if all(parameter.values for parameter in parameters):
            for value in values:
                slot = info.domain_discrete.values.add()
                if info.type == DATA_TYPE_BOOL:
                    slot.bool_value = value
                elif info.type == DATA_TYPE_STRING:
                    slot.string_value = str(value)
                else:
                    slot.number_value = value
        found.append(info)
    return found


def _summary(tag: str, data: HParamsPluginData) -> Summary:
    return Summary(
        value=[Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)]
    )

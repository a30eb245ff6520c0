"""The model of a run, to be asked."""

from __future__ import annotations

from pathlib import Path

from cxr.errors import DatasetError
from trainer.run import Run, open_run
from trainer.training.classifier import Classifier, build_classifier


def load_model(run: Run | str | Path) -> Classifier:
    """The classifier of a run with the weights of its best epoch; see `trainer.training.classifier.build_classifier`.

    Raises DatasetError where it is not a run, has no finished epoch yet, or its weights are damaged.
    """
    if not isinstance(run, Run):
        run = open_run(run)
    run.check_weights()
    model = build_classifier(run.config, run.facts, load_weights=False)
    try:
        model.load_weights(run.best_weights)
    except Exception as error:  # h5py and Keras raise what they meet
        raise DatasetError(f"the weights {run.best_weights} cannot be loaded: {error}") from error
    return model

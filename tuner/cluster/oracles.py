"""KerasTuner's oracles with atomic files, and without losing a trial in a restart."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner.src.engine import oracle as engine
from keras_tuner.src.engine.trial import TrialStatus
from keras_tuner.src.tuners.bayesian import BayesianOptimizationOracle
from keras_tuner.src.tuners.gridsearch import GridSearchOracle
from keras_tuner.src.tuners.hyperband import HyperbandOracle
from keras_tuner.src.tuners.randomsearch import RandomSearchOracle
from sklearn.exceptions import ConvergenceWarning

from cxr.files import write_json
from tuner.search_config import SearchConfig


class Durable(engine.Oracle):
    """What all of them have in common.

    A trial exists once `oracle.json` names it. The chief counts failures and ends the search, because an oracle that
    raises would keep its lock.
    """

    _retry_queue: list[str]

    def save(self) -> None:
        write_json(Path(self._get_oracle_fname()), self.get_state(), None)

    def _save_trial(self, trial: keras_tuner.engine.trial.Trial) -> None:
        write_json(Path(self._get_trial_dir(trial.trial_id), "trial.json"), trial.get_state(), None)

    def _check_consecutive_failures(self) -> None:
        pass

    def reload(self) -> None:
        """Reads a project: trials that were under way wait for a worker, in the order in which they were made."""
        super().reload()
        for trial_id in set(self.trials) - set(self.start_order):  # written just before the chief was killed
            del self.trials[trial_id]
        waiting = set(self._retry_queue) - set(self.end_order)  # one that ends, KerasTuner saves once more as under way
        self._retry_queue = sorted(waiting, reverse=True)  # the last one is taken first
        self.save()

    def take_back(self, tuner_id: str) -> None:
        """Takes the trial of a worker, so that it waits for another."""
        self._retry_queue.append(self.ongoing_trials.pop(tuner_id).trial_id)
        self.save()

    def give_again(self, tuner_id: str, trial_id: str) -> bool:
        """Gives a waiting trial to the worker that still trains it; returns whether it was waiting."""
        if trial_id not in self._retry_queue:
            return False
        self._retry_queue.remove(trial_id)
        self.ongoing_trials[tuner_id] = self.trials[trial_id]
        self.save()
        return True

    @property
    def waiting(self) -> list[str]:
        """Trials that wait for a worker."""
        return list(self._retry_queue)


class Hyperband(Durable, HyperbandOracle):
    """Li et al. 2018, "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization"."""

    hyperband_iterations: float

    def set_state(self, state: dict[str, Any]) -> None:
        rounds = self.hyperband_iterations
        super().set_state(state)
        self.hyperband_iterations = rounds  # another --max-trials may have been asked for since


class Bayesian(Durable, BayesianOptimizationOracle):
    """A Gaussian process over the hyperparameters; takes the point of the best upper confidence bound."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        with warnings.catch_warnings():  # few points in many dimensions do not determine the process's parameters
            warnings.simplefilter("ignore", ConvergenceWarning)
            return super().populate_space(trial_id)


class Random(Durable, RandomSearchOracle):
    """Bergstra and Bengio 2012."""


class Grid(Durable, GridSearchOracle):
    """Every combination, in order.

    KerasTuner's own makes a trial only when the one before it has ended, since that might have brought new
    hyperparameters, and forgets the order when it is reloaded. Here all are known from the start.
    """

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        found = super().populate_space(trial_id)
        if found["status"] == TrialStatus.RUNNING:
            self._populate_next.append(trial_id)
        return found

    def get_state(self) -> dict[str, Any]:
        order = self.start_order[:1]  # the first trial has the first combination
        while order and (following := self._ordered_ids.next(order[-1])) is not None:
            order.append(following)
        return {**super().get_state(), "order": order}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        for trial_id in state["order"]:
            self._ordered_ids.insert(trial_id)
        self._populate_next = list(state["start_order"])


def make_oracle(config: SearchConfig) -> Durable:
    """The oracle of a search, for the project's directory; not yet loaded from it."""
    options: dict[str, Any] = {
        "objective": keras_tuner.Objective(config.objective, config.goal.direction),
        "hyperparameters": config.space.hyperparameters(),
        "allow_new_entries": False,
        "tune_new_entries": True,
        "seed": config.seed + 1,  # 0 would draw one
    }
    oracle: Durable
    if config.oracle == "hyperband":
        rounds = 1 if config.max_trials is None else None  # None: repeated until there are enough trials
        oracle = Hyperband(max_epochs=config.epochs, factor=config.factor, hyperband_iterations=rounds, **options)
    else:
        options["max_trials"] = None  # the chief counts; here it would decide how many digits an id has
        if config.oracle == "bayesian":
            initial = max(4, min(3 * len(config.space.parameters), (config.limit or 20) // 3))
            oracle = Bayesian(num_initial_points=initial, **options)
        else:
            oracle = (Random if config.oracle == "random" else Grid)(**options)
    project = Path(config.project)
    oracle._set_project_dir(str(project.parent), project.name)
    oracle.verbose = 0
    return oracle


@contextlib.contextmanager
def released_on_error(oracle: Durable) -> Iterator[None]:
    """Unlocks the oracle after an error in one of its calls; KerasTuner's `synchronized` would leave it locked."""
    try:
        yield
    except BaseException:
        if engine.LOCKS[oracle].locked():
            engine.THREADS[oracle] = None
            engine.LOCKS[oracle].release()
        raise


def planned(oracle: Durable, config: SearchConfig) -> tuple[int | None, int | None]:
    """Trials and epochs of the whole search if nothing fails or is pruned; None where they are not known."""
    if isinstance(oracle, Hyperband):
        if config.max_trials is not None:
            return config.max_trials, None
        rounds = [
            (oracle._get_size(bracket, number), oracle._get_epochs(bracket, number))
            for bracket in range(oracle._get_num_brackets())
            for number in range(oracle._get_num_rounds(bracket))
        ]
        return sum(size for size, _ in rounds), sum(size * epochs for size, epochs in rounds)
    trials = config.limit
    if isinstance(oracle, Grid) and (combinations := config.space.combinations()) is not None:
        trials = min(combinations, trials or combinations)
    return trials, None if trials is None else trials * config.epochs

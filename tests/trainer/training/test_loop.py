"""Training as a whole: whatever stops it, going on ends where never stopping ends."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from cxr.errors import DatasetError, InputError, OutputError, TrainingError
from trainer.facts import DataFacts
from trainer.run import create_run, locked, open_run
from trainer.training.checkpoint import read_state
from trainer.training.classifier import augmented, build_classifier
from trainer.training.keeper import synchronize
from trainer.training.loop import Phase, phases_of, train
from trainer.training.stopping import Stopped, StopRequest
from trainer.training.trained import load_model
from trainer.training.validation import predict_split


class StopAfter(keras.callbacks.Callback):
    """Asks for a stop once so many steps are done, or before validation if an epoch ends before."""

    def __init__(self, stop: StopRequest, steps: int):
        super().__init__()
        self.stop, self.steps, self.done = stop, steps, 0

    def on_train_batch_begin(self, batch, logs=None):
        if batch:
            self.done += 1
        if self.done == self.steps:
            self.stop.request()


def final_weights(run) -> list[np.ndarray]:
    with np.load(run.last_checkpoint) as arrays:
        return [arrays[name] for name in sorted(arrays.files) if name != "state"]


def assert_same_weights(one, other) -> None:
    for ours, theirs in zip(final_weights(one), final_weights(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("changes", [
    {"augment_options": {"noise_sigma": 0.05}, "equalize": True},
    {"ema": 0.9, "schedule": "plateau", "optimizer": "sgd"},
    pytest.param({"mixed_precision": "float16", "optimizer": "adam"}, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_run_that_was_stopped_ends_in_the_same_weights(data, start, tmp_path, changes):
    undisturbed = start(tmp_path / "undisturbed", data, **changes)
    history = train(undisturbed, data, quiet=True)
    stopped = start(tmp_path / "stopped", data, **changes)
    steps = []
    for count in (1, 5, 7):
        stop = StopRequest()
        try:
            train(stopped, data, resume=True, stop=stop, callbacks=[StopAfter(stop, count)], quiet=True)
            break
        except Stopped as said:
            assert "--resume` goes on" in str(said)
            state = read_state(stopped.last_checkpoint)
            steps.append((state["epoch"], state["step"]))
    else:
        train(stopped, data, resume=True, quiet=True)
    assert 2 <= len(set(steps)) == len(steps)
    assert_same_weights(stopped, undisturbed)
    rows = read_state(stopped.last_checkpoint)["history"]
    for ours, theirs in zip(rows, history, strict=True):
        for name in ("loss", "accuracy", "val_loss", "val_auc"):
            assert ours[name] == theirs[name]


def test_a_stop_during_validation_loses_nothing(data, start, trained, tmp_path):
    stopped = start(tmp_path / "stopped", data)

    class AsksOnceTheEpochIsOver(StopRequest):
        asked = 0

        def __bool__(self):
            self.asked += 1
            return self.asked > 7  # between the epoch's 8 steps, then validation looks

    stop = AsksOnceTheEpochIsOver()
    with pytest.raises(Stopped, match="step 8 of 8 in epoch 1"):
        train(stopped, data, stop=stop, quiet=True)
    state = read_state(stopped.last_checkpoint)
    assert (state["epoch"], state["step"]) == (0, 8)
    history = train(stopped, data, resume=True, quiet=True)
    assert [row["epoch"] for row in history] == [1, 2]
    assert_same_weights(stopped, trained)


def test_what_a_run_leaves_behind(trained, data):
    run = open_run(trained.root)
    assert (run.state, run.config, run.facts) == ("finished", trained.config, DataFacts.of(data))
    assert {"keras", "tensorflow", "numpy"} <= set(run.made["versions"])
    history = run.read_history()
    assert [row["epoch"] for row in history] == [1, 2]
    best = max(range(2), key=lambda epoch: history[epoch]["val_auc"])
    assert run.read_outcome() == {"epochs": 2, "best_epoch": best + 1, "best": history[best]["val_auc"]}
    for name in ("train", "validation"):
        assert len(list((run.tensorboard / name).iterdir())) == 1


def test_the_best_weights_are_those_of_the_best_epoch(trained, data):
    from trainer.evaluation.metrics import quick_metrics

    model = load_model(trained.root)
    metrics = quick_metrics(predict_split(model, data, "val", trained.config), trained.facts.positive)
    assert metrics["auc"] == pytest.approx(trained.read_outcome()["best"], abs=1e-6)


def test_early_stopping_and_the_plateau(data, start, tmp_path):
    changes = {"learning_rate": 1e-9, "optimizer": "sgd", "schedule": "plateau", "early_stopping": 3, "epochs": 9}
    run = start(tmp_path / "run", data, warmup_epochs=0.0, **changes)
    history = train(run, data, quiet=True)
    assert len(history) == 1 + 3, "nothing gets better at such a rate"
    assert read_state(run.last_checkpoint)["ended"]
    with np.load(run.last_checkpoint) as arrays:
        scalars = [float(array) for array in arrays.values() if array.shape == () and array.dtype == "float32"]
    assert any(value == pytest.approx(1e-9 / 3, rel=1e-3) for value in scalars)
    assert train(run, data, resume=True, quiet=True) == history


def test_a_loss_that_is_not_finite_is_named_with_its_step(data, start, tmp_path):
    run = start(tmp_path / "run", data, optimizer="sgd", schedule="plateau", augment="none")

    class TooFast(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 3:
                synchronize(self.model)
                self.model.optimizer.learning_rate = 3e38

    message = r"not finite since step [4-6] \(epoch 1\).*of step [34]\. Lower --learning-rate"
    with pytest.raises(TrainingError, match=message):
        train(run, data, callbacks=[TooFast()], quiet=True, checkpoint_seconds=0)
    assert read_state(run.last_checkpoint)["step"] in (3, 4)
    assert all(np.isfinite(array).all() for array in final_weights(run))


def test_two_processes_do_not_train_one_run(data, start, tmp_path):
    run = start(tmp_path / "run", data)
    code = "import sys; from trainer.run import *\nwith locked(Path(sys.argv[1])): print(1, flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, run.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert other.stdout.readline() == "1\n"
    with pytest.raises(OutputError, match="another process is training"):
        train(run, data, quiet=True)
    other.communicate("\n")
    with locked(run.root), locked(run.root):  # within one process it may be asked for again
        pass


@pytest.mark.parametrize("fixture", ["cause_data", "multi_label_data"])
def test_other_tasks_are_read_from_the_data_set(fixture, request, start, tmp_path):
    data = request.getfixturevalue(fixture)
    run = start(tmp_path / "run", data, epochs=1)
    history = train(run, data, quiet=True)
    assert run.facts.task == ("multi-label" if data.multi_label else "multi-class")
    predictions = predict_split(load_model(run), data, "val", run.config)
    assert predictions.probabilities.shape == (data.images("val"), 3)
    assert np.isfinite(history[0]["val_auc"])
    total = predictions.probabilities.sum(axis=1)
    assert np.allclose(total, 1, atol=1e-5) == (not data.multi_label)


def test_a_changed_data_set_is_refused(data, start, tmp_path):
    run = start(tmp_path / "run", data)
    other = dataclasses.replace(run, facts=dataclasses.replace(run.facts, digest="0" * 32))
    with pytest.raises(InputError, match="not the data set that the run was started on"):
        train(other, data, quiet=True)


def test_directories_that_hold_something_else(data, small, tmp_path, trained):
    facts = DataFacts.of(data)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"no run \(notes.txt"):
        create_run(tmp_path, small(), facts)
    with pytest.raises(OutputError, match=r"finished.*--overwrite"):
        create_run(trained.root, small(), facts)
    with pytest.raises(DatasetError, match="is not a run"):
        open_run(tmp_path)
    run = create_run(tmp_path / "run", small(), facts)
    with pytest.raises(OutputError, match="--resume resumes it"):
        create_run(run.root, small(), facts)
    assert create_run(run.root, small(epochs=1), facts, overwrite=True).config.epochs == 1


def test_a_run_without_an_epoch_has_no_model(data, start, tmp_path):
    with pytest.raises(DatasetError, match="no epoch of it has ended"):
        load_model(start(tmp_path / "run", data))


def test_damaged_checkpoints_say_so(data, run):
    content = run.last_checkpoint.read_bytes()
    run.last_checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match="damaged"):
        train(run, data, resume=True, quiet=True)


def test_memory_that_does_not_suffice_says_what_to_lower(data, start, tmp_path):
    run = start(tmp_path / "run", data)

    class Exhausted(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123 bytes")

    with pytest.raises(TrainingError, match=r"out of memory with cnn3, batches of 8.*--batch-size \(try 4\)"):
        train(run, data, callbacks=[Exhausted()], quiet=True)


def test_phases(small):
    assert phases_of(small(epochs=4)) == [Phase(0, 4, 0.005, "all")]
    frozen = small(model="vgg16", model_options={}, weights="imagenet", epochs=5, freeze_epochs=2, fine_tune_layers=3)
    assert phases_of(frozen) == [Phase(0, 2, 0.005, "head"), Phase(2, 5, 1e-5, 3)]
    assert phases_of(dataclasses.replace(frozen, epochs=2)) == [Phase(0, 2, 0.005, "head")]


def test_what_is_shown_of_augmentation_leaves_the_generators_alone(data, small):
    facts = DataFacts.of(data)
    model = build_classifier(small(augment="strong"), facts)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8)
    first, second = augmented(model, images), augmented(model, images)
    np.testing.assert_array_equal(first, second)
    assert first.shape == images.shape
    assert not np.array_equal(first, images / np.float32(255))
    untouched = augmented(build_classifier(small(augment="none"), facts), images)
    np.testing.assert_allclose(untouched, images / np.float32(255), atol=1e-7)

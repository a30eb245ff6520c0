"""Evaluation as a whole: what decides is chosen on the run's own validation, and everything that is written agrees."""

from __future__ import annotations

import json
import shutil

import pytest

from cxr.console import run_command
from cxr.errors import InputError
from tfrecords.dataset import open_dataset
from trainer.evaluate import evaluate, main, shift_suite
from trainer.evaluation.operating_point import OperatingPoint, read_operating_point
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.shifts import SHIFTS
from trainer.run import Run, open_run
from trainer.training.trained import load_model
from trainer.training.validation import predict_split


@pytest.fixture
def run(trained, tmp_path) -> Run:
    """A copy of the trained run, to write to."""
    shutil.copytree(trained.root, tmp_path / "run")
    return open_run(tmp_path / "run")


def test_the_threshold_is_chosen_on_validation_and_applied_elsewhere(run, data):
    metrics = evaluate(run, data, "test", shifts=False, bootstrap=50)
    validation = predict_split(load_model(run), data, "val", run.config)
    chosen = OperatingPoint.choose(validation, "youden", run.facts.positive, "val")
    assert metrics["operating_point"] == chosen.to_json()
    assert read_operating_point(run.operating_point, run.weights_digest()) == chosen
    folder = run.evaluation("test")
    written = Predictions.load_csv(folder / "predictions.csv")
    assert len(written) == metrics["images"] == data.images("test")
    right = (chosen.apply(written) == written.truth).mean()
    assert metrics["metrics"]["accuracy"]["value"] == pytest.approx(right)
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert "<html" in (folder / "report.html").read_text()


def test_a_stored_threshold_is_used_until_another_rule_or_other_weights(run, data):
    first = evaluate(run, data, "test", shifts=False, bootstrap=0, rule="recall=0.9")["operating_point"]
    assert first["rule"] == "recall=0.9"
    assert evaluate(run, data, "test", shifts=False, bootstrap=0)["operating_point"] == first
    point = evaluate(run, data, "test", shifts=False, bootstrap=0, rule="threshold=0.25")["operating_point"]
    assert point["thresholds"] == {"PNEUMONIA": 0.25}
    model = load_model(run)
    model.get_layer("scores").bias.assign([0.0, 3.0])
    model.save_weights(run.best_weights, overwrite=True)
    assert read_operating_point(run.operating_point, run.weights_digest()) is None
    assert evaluate(run, data, "test", shifts=False, bootstrap=0)["operating_point"]["rule"] == "youden"


def test_a_damaged_threshold_is_written_anew(run, data):
    run.operating_point.write_text("{")
    evaluate(run, data, "val", shifts=False, bootstrap=0)
    assert read_operating_point(run.operating_point, run.weights_digest()).rule == "youden"


def test_a_data_set_that_moved_is_the_same(run, data, tmp_path):
    fields = json.loads((run.root / "run.json").read_text())
    fields["data"]["path"] = str(tmp_path / "gone")
    (run.root / "run.json").write_text(json.dumps(fields))
    moved = open_run(run.root)
    assert evaluate(moved, data, "test", shifts=False, bootstrap=0)["operating_point"]["rule"] == "youden"


def test_another_data_set_at_the_same_place_is_not(run, data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(data.root, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["source"]["note"] = "changed"
    (other / "manifest.json").write_text(json.dumps(manifest))
    fields = json.loads((run.root / "run.json").read_text())
    fields["data"]["path"] = str(other)
    (run.root / "run.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match="has changed since"):
        evaluate(open_run(run.root), open_dataset(other), "test", shifts=False, bootstrap=0)
    assert not run.operating_point.exists()


def test_the_shift_suite(run, data):
    model = load_model(run)
    point = OperatingPoint("threshold=0.5", {"PNEUMONIA": 0.5}, "val")
    baseline = {name: {"value": 1.0} for name in ("specificity", "roc_auc", "recall")}
    found = shift_suite(run, model, data, "val", point, baseline, quiet=True)
    assert list(found["shifts"]) == list(SHIFTS)
    values = {name: shift["metrics"]["roc_auc"]["value"] for name, shift in found["shifts"].items()}
    worst = found["worst"]["roc_auc"]
    assert worst["value"] == min(values.values()) == values[worst["shift"]]
    assert worst["drop"] == pytest.approx(1 - worst["value"])
    assert len(set(values.values())) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "holdout"], "no split 'holdout'; the data set has train, val, test"),
        (["--data", "nowhere"], "nowhere"),
        (["--operating-point", "recall=2"], "recall=2"),
        (["--output", "/proc/foo"], "/proc/foo cannot be made"),
    ],
)
def test_what_is_refused(run, capsys, arguments, message):
    assert run_command(main, ["--run", str(run.root), "--no-shifts", "--quiet", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_data_of_other_labels_are_refused(run, cause_data):
    with pytest.raises(InputError, match="do not fit together: labels NORMAL, PNEUMONIA in the run"):
        evaluate(run, cause_data, "val")


def test_from_the_command_line(run, data, capsys):
    assert main(["--run", str(run.root), "--split", "test", "--bootstrap", "20", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "operating point youden" in said
    for part in ("roc auc", "95 % interval", *SHIFTS, "report.html"):
        assert part in said

"""Evaluation as a whole: what decides is chosen on the run's own validation, and everything that is written agrees."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

from cxr.console import run_command
from cxr.errors import InputError
from tfrecords.dataset import open_dataset
from trainer.evaluate import choose_operating_point, evaluate, main, shift_suite
from trainer.evaluation.operating_point import OperatingPoint, read_operating_point
from trainer.evaluation.shifts import SHIFTS
from trainer.training.trained import load_model
from trainer.training.validation import predict_split, predict_validation


def test_the_threshold_is_chosen_on_validation_and_applied_elsewhere(run, data):
    metrics = evaluate(run, data, "test", shifts=False, bootstrap=50)
    validation = predict_split(load_model(run), data, "val", run.config)
    chosen = OperatingPoint.choose(validation, "youden", run.facts.positive)
    assert metrics["operating_point"] == chosen.to_json()
    assert read_operating_point(run.operating_point, run.weights_digest()) == chosen
    folder = run.evaluation("test")
    with open(folder / "predictions.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == metrics["images"] == data.images("test")
    called = [
        "NORMAL" if float(row["p:PNEUMONIA"]) < chosen.thresholds["PNEUMONIA"] else "PNEUMONIA" for row in written
    ]
    assert called == [row["predicted"] for row in written]
    assert metrics["metrics"]["accuracy"]["value"] == pytest.approx(np.mean([int(row["correct"]) for row in written]))
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert "<html" in (folder / "report.html").read_text()


def test_a_stored_threshold_is_used_until_another_rule_or_other_weights(run, data):
    validation = predict_split(load_model(run), data, "val", run.config)
    asked = []

    def choose(rule: str | None = None) -> OperatingPoint:
        return choose_operating_point(run, rule, lambda: asked.append(rule) or validation)

    first = choose("recall=0.9")
    assert first.rule == "recall=0.9" and choose() == first
    assert choose("threshold=0.25").thresholds == {"PNEUMONIA": 0.25} and choose() != first
    assert asked == ["recall=0.9"]
    run.best_weights.write_bytes(b"others")
    assert read_operating_point(run.operating_point, run.weights_digest()) is None
    assert choose().rule == "youden"
    run.operating_point.write_text("{")  # damaged: written anew
    assert choose() == read_operating_point(run.operating_point, run.weights_digest())
    assert asked == ["recall=0.9", None, None]


def test_a_data_set_that_moved_is_the_same(run, data):
    moved = dataclasses.replace(run, facts=dataclasses.replace(run.facts, path="/gone"))
    assert len(predict_validation(moved, load_model(run), data)) == data.images("val")


def test_another_data_set_at_the_same_place_is_not(run, data, tmp_path):
    other = shutil.copytree(data.root, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["source"]["note"] = "changed"
    (other / "manifest.json").write_text(json.dumps(manifest))
    moved = dataclasses.replace(run, facts=dataclasses.replace(run.facts, path=str(other)))
    with pytest.raises(InputError, match="has changed since"):
        evaluate(moved, open_dataset(other), "test", shifts=False, bootstrap=0)
    assert not run.operating_point.exists()


def test_the_shift_suite(run, data):
    model = load_model(run)
    point = OperatingPoint("threshold=0.5", {"PNEUMONIA": 0.5})
    baseline = {name: {"value": 1.0} for name in ("specificity", "roc_auc", "recall")}
    found = shift_suite(run, model, data, "val", point, baseline, quiet=True)
    assert list(found["shifts"]) == list(SHIFTS)
    values = {name: shift["metrics"]["roc_auc"]["value"] for name, shift in found["shifts"].items()}
    worst = found["worst"]["roc_auc"]
    assert worst["value"] == min(values.values()) == values[worst["shift"]]
    assert worst["drop"] == pytest.approx(1 - worst["value"])
    assert len(set(values.values())) > 1


@pytest.mark.parametrize(("arguments", "message"), [
    (["--split", "holdout"], "no split 'holdout'; the data set has train, val, test"),
    (["--data", "nowhere"], "nowhere"),
    (["--operating-point", "recall=2"], "recall=2"),
    (["--output", "/proc/foo"], "/proc/foo cannot be made"),
])  # fmt: skip
def test_what_is_refused(run, capsys, arguments, message):
    assert run_command(main, ["--run", str(run.root), "--no-shifts", "--quiet", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_data_of_other_labels_are_refused(run, data):
    others = dataclasses.replace(run, facts=dataclasses.replace(run.facts, labels=("a", "b")))
    with pytest.raises(InputError, match="do not fit together: labels a, b in the run"):
        evaluate(others, data, "val")


def test_from_the_command_line(run, data, capsys):
    assert main(["--run", str(run.root), "--split", "test", "--bootstrap", "20", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "operating point youden" in said
    for part in ("ROC AUC", "95 % interval", *SHIFTS, "report.html"):
        assert part in said

"""The report of an evaluation: one page that needs nothing, the same in TensorBoard, whatever the task."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from cxr.page.figures import to_pixels, to_svg
from tfrecords.images.fit import fit
from trainer.evaluation.metrics import evaluate_predictions
from trainer.evaluation.operating_point import OperatingPoint
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.shifts import suite_summary
from trainer.report import evaluation_words as words
from trainer.report import write_report
from trainer.report.evaluation_plots import roc_figure
from trainer.report.gallery import MISTAKES, choose_examples, place_heat
from trainer.run import Run
from trainer.training.classifier import build_classifier
from trainer.training.trained import load_model
from trainer.training.validation import predict_split

SLIDES = {"roc", "pr", "confusion", "calibration", "scores", "history", "shifts", "mistakes", "gradcam"}


def evaluated(predictions: Predictions, point: OperatingPoint, split: str = "val", shifts: bool = True) -> dict:
    """What `trainer.evaluate.evaluate` hands over; under `jpeg-30` everything is 0.1 worse, under `noise` 0.01."""
    metrics = {"run": "r", "split": split, "data": "/data", **evaluate_predictions(predictions, point, bootstrap=50)}
    metrics |= {"shifts": None, "worst": None}
    if shifts:
        values = {name: found["value"] for name, found in metrics["metrics"].items()}
        found = {
            shift: {name: {"value": None if value is None else value - drop} for name, value in values.items()}
            for shift, drop in (("jpeg-30", 0.1), ("noise", 0.01))
        }
        metrics["shifts"] = {shift: {"metrics": by_name} for shift, by_name in found.items()}
        metrics["worst"] = suite_summary(metrics["metrics"], found)
    return metrics


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def mixed(labels: tuple[str, ...], images: int, multi_label: bool = False, **texts) -> Predictions:
    """Made-up predictions, mostly right; of a multi-label task the last label has no image."""
    random = np.random.default_rng(0)
    scores = random.normal(size=(images, len(labels)))
    if multi_label:
        truth = (random.random(scores.shape) < 0.4).astype(np.uint8)
        truth[:, -1] = 0
        probabilities = 1 / (1 + np.exp(-scores - 3 * truth + 1))
    else:
        truth = (np.arange(images) % len(labels)).astype(np.int32)
        scores[np.arange(images), truth] += 1.5
        probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    names = {name: [f"{name}{i}" for i in range(images)] for name in ("patients", "paths")}
    return Predictions(labels, multi_label, probabilities, truth, **{**names, **texts})


def model_for(run: Run, predictions: Predictions):
    labels, multi_label = predictions.labels, predictions.multi_label
    return build_classifier(run.config, dataclasses.replace(run.facts, labels=labels, multi_label=multi_label))


def scalars(run: Run, split: str = "val") -> EventAccumulator:
    return EventAccumulator(str(run.tensorboard / "evaluation" / split)).Reload()


HALF = OperatingPoint("threshold=0.5", {"PNEUMONIA": 0.5})


def test_page_of_a_trained_run(run, data, folder, read_page):
    model = load_model(run)
    predicted = predict_split(model, data, "val", run.config)
    metrics = evaluated(predicted, HALF)
    write_report(folder, run, data, model, predicted, HALF, metrics)

    page = read_page(folder / "report.html")
    assert "not a medical device" in page.text
    assert f"{metrics['images']} of {metrics['patients']} patients" in page.text
    assert words.headline(metrics)[0] in page.text
    assert f"{metrics['metrics']['roc_auc']['value']:.3f}" in page.text
    assert run.config.model in page.text and data.manifest.digest in page.text and run.made["started"] in page.text
    groups = choose_examples(predicted, HALF, "PNEUMONIA")
    assert page.tags.count("img") == 2 * sum(len(group.examples) for group in groups)
    by_cause = [name for name in set(predicted.causes[predicted.truth == 1].tolist()) if name]
    assert by_cause and all(name in page.text for name in by_cause)

    slides = {path.stem for path in (folder / "plots").iterdir()}
    drawn = {"mistakes": True, "gradcam": False}
    kinds = {group.mistakes for group in groups}
    assert slides == SLIDES - {name for name, kind in drawn.items() if kind not in kinds}
    for path in (folder / "plots").iterdir():
        assert np.asarray(Image.open(path)).std() > 5

    board = scalars(run)
    tensors = {tag: board.Tensors(tag)[0] for tag in board.Tags()["tensors"]}
    assert set(tensors) >= {f"evaluation/{name}" for name in slides & {"roc", "pr", "confusion", "shifts"}}
    assert board.SummaryMetadata("precision and recall/PNEUMONIA").plugin_data.plugin_name == "pr_curves"
    recall = tensors["evaluation/recall"]
    assert recall.step == run.read_outcome()["best_epoch"]
    assert make_ndarray(recall.tensor_proto) == pytest.approx(metrics["metrics"]["recall"]["value"])
    assert "shifts/recall/jpeg-30" in tensors and "evaluation/summary" in tensors


def test_a_second_evaluation_replaces_the_first(run, data, folder):
    predictions = mixed(("NORMAL", "PNEUMONIA"), 12)
    metrics, model = evaluated(predictions, HALF), load_model(run)
    for shifts in (True, False):
        changed = metrics if shifts else {**metrics, "shifts": None, "worst": None}
        write_report(folder, run, data, model, predictions, HALF, changed)
        assert len(list((run.tensorboard / "evaluation" / "val").iterdir())) == 1
        assert (folder / "plots" / "shifts.png").exists() == shifts
        assert any(tag.startswith("shifts/") for tag in scalars(run).Tags()["tensors"]) == shifts
    assert "Not measured" in (folder / "report.html").read_text()


def test_several_labels_an_image(run, data, folder, read_page):
    labels = ("normal", "bacterial", "viral", "none has it")
    predictions = mixed(labels, 14, multi_label=True)
    point = OperatingPoint("threshold=0.4", dict.fromkeys(labels, 0.4))
    metrics = evaluated(predictions, point)
    write_report(folder, run, data, model_for(run, predictions), predictions, point, metrics)

    page = read_page(folder / "report.html")
    assert len([name for name in page.ids if re.fullmatch(r"confusion\d+-figure_1", name)]) == len(labels)
    assert all(f"{metrics['per_label'][label]['accuracy']['value']:.3f}" in page.text for label in labels)
    tags = set(scalars(run).Tags()["tensors"])
    assert {f"precision and recall/{label}" for label in labels} <= tags
    assert "evaluation of viral/roc_auc" in tags
    assert metrics["per_label"]["none has it"]["recall"]["value"] is None
    assert "None" not in page.text and "nan" not in page.text.split()


def test_one_label_of_several_and_text_of_the_data_stays_text(run, data, folder, read_page):
    labels = ("<b>x</b> & \"y'", "$a$ 肺", "third")
    evil = ["</title><script>alert(1)</script>"] * 12
    causes = [f"<i>c{number % 4}</i>" for number in range(12)]
    predictions = mixed(labels, 12, paths=evil, patients=evil, causes=causes)
    point = OperatingPoint("argmax", {})
    metrics = {**evaluated(predictions, point), "run": "<u>run</u>", "data": "<s>data</s>"}
    write_report(folder, run, data, model_for(run, predictions), predictions, point, metrics)

    page = read_page(folder / "report.html")
    assert not {"b", "script", "i", "u", "s"} & set(page.tags)
    assert page.tags.count("title") == 1
    for text in (*labels, evil[0], causes[0], "<s>data</s>"):
        assert text in page.text


def test_images_of_one_class_only(run, data, folder, read_page):
    predictions = dataclasses.replace(mixed(("NORMAL", "PNEUMONIA"), 12), truth=np.ones(12))
    metrics = evaluated(predictions, HALF)
    write_report(folder, run, data, load_model(run), predictions, HALF, metrics)
    page = read_page(folder / "report.html")
    assert metrics["metrics"]["roc_auc"]["value"] is None
    assert "ROC AUC - -" in page.text
    assert "its rate of false alarms is undefined" in page.text
    other = evaluated(dataclasses.replace(predictions, truth=np.zeros(12)), HALF)
    assert "its recall is undefined" in words.headline(other)[0]


def test_without_history_patients_causes_mistakes_or_heat(start, data, tmp_path, folder, read_page):
    run = start(tmp_path / "new", data, model="mlp", model_options={})
    truth = np.array([0, 1] * 3, np.int32)
    predictions = Predictions(("NORMAL", "PNEUMONIA"), False, np.eye(2)[truth] * 0.8 + 0.1, truth)
    point = OperatingPoint("youden", {"PNEUMONIA": 0.5})
    metrics = evaluated(predictions, point, shifts=False)
    write_report(folder, run, data, model_for(run, predictions), predictions, point, metrics)

    page = read_page(folder / "report.html")
    assert "no history" in page.text and "There are none." in page.text and "dense layers" not in page.text
    assert "Grad-CAM cannot say" in page.text
    assert "By cause" not in page.text
    assert "chosen on this very split" in page.text
    assert page.tags.count("img") == 6
    assert not (folder / "plots" / "mistakes.png").exists()


def test_the_surest_mistakes_come_first():
    random = np.random.default_rng(5)
    scores = random.random(200)
    truth = random.integers(0, 2, 200).astype(np.int32)
    predictions = Predictions(("a", "b"), False, np.stack([scores, 1 - scores], 1), truth)
    point = OperatingPoint("threshold=0.6", {"a": 0.6})
    alarms, missed, found, right = choose_examples(predictions, point, "a")

    wrong = np.sort(scores[(truth == 1) & (predictions.probabilities[:, 0] >= 0.6)])[::-1]
    assert [example.score for example in alarms.examples] == pytest.approx(wrong[:MISTAKES])
    assert alarms.total == len(wrong) and alarms.mistakes
    low = np.sort(scores[(truth == 0) & (predictions.probabilities[:, 0] < 0.6)])
    assert [example.score for example in missed.examples] == pytest.approx(low[:MISTAKES])
    assert {example.label for example in missed.examples} == {0}
    assert not found.mistakes and not right.mistakes
    assert all(truth[example.index] == 0 for example in found.examples)
    assert sum(group.total for group in (alarms, missed, found, right)) == 200


def test_mistakes_of_several_labels_are_counted_by_label():
    predictions = mixed(("a", "b", "c"), 60, multi_label=True)
    point = OperatingPoint("threshold=0.5", dict.fromkeys("abc", 0.5))
    alarms, missed, _ = choose_examples(predictions, point, None)
    said = predictions.probabilities >= 0.5
    assert alarms.total == int((said & (predictions.truth == 0)).sum())
    assert missed.total == int((~said & (predictions.truth == 1)).sum())
    best = max(alarms.examples, key=lambda example: example.score)
    assert best == alarms.examples[0]
    assert best.score == np.where(said & (predictions.truth == 0), predictions.probabilities, 0).max()


@pytest.mark.parametrize("how", ["squash", "pad", "crop"])
@pytest.mark.parametrize("shape", [(60, 100), (100, 60)])
def test_heat_lies_where_the_model_was_shown_it(how, shape):
    image = np.zeros((*shape, 1), np.uint8)
    image[24:36, 44:54] = 255
    fed = np.zeros((40, 40, 1), np.uint8)
    fit(image, fed, how)
    placed = place_heat(fed[..., 0].astype(np.float32) / 255, how, *shape)

    assert placed.shape == shape and placed.dtype == np.float32
    inside = image[..., 0] > 0
    assert placed[inside].mean() > 0.75 and placed[~inside].mean() < 0.03


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.97, "97"), (1, "100"), (0, "0"), (0.996, "99.6"), (0.9999, "more than 99.9"), (0.0001, "less than 0.1"),
     (0.0098, "1"), (0.0149, "1.5"), (0.984, "98")],
)  # fmt: skip
def test_shares_of_a_hundred_claim_neither_all_nor_none(share, text):
    assert words.of_hundred(share) == text


def binary_metrics(recall: float, specificity: float, precision: float = 0.5) -> dict:
    def of(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.02, "high": value + 0.01}

    return {
        "task": "binary", "positive": "TB", "labels": ["ok", "TB"], "images": 100, "split": "test",
        "confusion": [[40, 10], [5, 45]],
        "operating_point": {"rule": "recall=0.95", "thresholds": {"TB": 0.25}, "chosen_on": "val"},
        "metrics": {"recall": of(recall), "specificity": of(specificity), "precision": of(precision)},
    }  # fmt: skip


def test_headline_speaks_of_a_hundred_images():
    metrics = binary_metrics(0.9, 0.8, 0.82)
    first, second = words.headline(metrics)
    assert "finds 90 (95 % interval 88 to 91)" in first and "wrongly calls 20 (95 % interval 19 to 22)" in first
    assert "right in 82 of 100 cases here, where 50 of 100 images have it" in second
    assert "right in about 33 of 100" in second
    assert words.predictive_value(0.9, 0.8, 0.1) == pytest.approx(0.09 / 0.27)
    assert words.predictive_value(0, 1, 0.1) is None
    assert "TB from 0.25; the highest that still finds 95 of 100, chosen on split 'val'" in words.rule_text(metrics)


def test_warnings_name_what_makes_figures_too_good():
    metrics = binary_metrics(0.9, 0.8)
    assert words.split_cautions(metrics, same_data=True) == []
    metrics["split"] = "val"
    best_epoch, chosen_here = words.split_cautions(metrics, same_data=True)
    assert "chose the best epoch" in best_epoch and "are optimistic" in chosen_here
    assert words.split_cautions(metrics, same_data=False) == []
    metrics["operating_point"] = {"rule": "threshold=0.5", "thresholds": {"TB": 0.5}, "chosen_on": "val"}
    assert len(words.split_cautions(metrics, same_data=True)) == 1
    metrics["confusion"] = [[90, 2], [3, 5]]
    assert "Fewer than 30 images have the label TB" in words.split_cautions(metrics, same_data=True)[-1]


@pytest.mark.parametrize(("drop", "warns"), [(0.049, False), (0.051, True), (-0.2, False)])
def test_shifts_warn_from_five_points(drop, warns):
    worst = {"recall": {"shift": "noise", "value": 0.9, "drop": drop}}
    text, warn = words.shift_sentence({"worst": worst})
    assert warn == warns
    assert ("recall falls by" in text) == (drop > 0)


def test_figures_are_the_same_each_time_and_keep_text_as_text():
    predictions = mixed(("a", "b & <c>"), 50)
    metrics = evaluated(predictions, OperatingPoint("threshold=0.5", {"b & <c>": 0.5}))
    first, second = (to_svg(roc_figure(predictions, metrics), "roc", 'a "curve"') for _ in range(2))
    assert first == second
    assert "b &amp; &lt;c&gt;" in first and "<text" in first and "<date" not in first
    assert 'aria-label="a &quot;curve&quot;"' in first
    pixels = to_pixels(roc_figure(predictions, metrics), 100)
    assert pixels.dtype == np.uint8 and pixels.shape[1:] == (440, 3)

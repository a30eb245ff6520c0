"""Event files as TensorBoard itself reads and serves them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from cxr.errors import InputError, MissingExtraError
from cxr.events import EventWriter, is_event_file

LABELS = np.array([0, 0, 1, 1, 0, 1, 0, 1])
SCORES = np.array([0.0, 0.35, 0.29, 0.8, 0.8, 1.0, 0.145, 0.995])
WEIGHTS = np.array([1, 2, 1, 3, 1, 1, 4, 1])  # whole: TensorBoard serves whole counts


def values_of(folder) -> dict[str, list]:
    """(step, tensor) of every tag in a folder, in order."""
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return {tag: [(one.step, make_ndarray(one.tensor_proto)) for one in found.Tensors(tag)]
            for tag in found.Tags()["tensors"]}  # fmt: skip


def write_everything(folder) -> None:
    images = np.arange(2 * 5 * 7 * 3, dtype=np.uint8).reshape(2, 5, 7, 3)
    with EventWriter(folder) as events:
        for step in range(5):
            events.scalars({"train/loss": 1 / (step + 1), "train/accuracy": step / 4}, step)
        events.scalar("val/roc auc", 0.875, 4, "of **PNEUMONIA**")
        events.image("examples/colour", images, 1, "two of them")
        events.image("examples/grey", images[0, :, :, :1], 2)
        events.text("notes/table", "| a | b |\n|---|---|\n| one | 2 |", 3)
        events.histogram("sizes/height", [1.0, 2.0, 2.0, 9.0, np.nan], 6)
        events.pr_curve("pr/PNEUMONIA", LABELS, SCORES, 7, WEIGHTS)


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Asks a real TensorBoard over one run of everything: path and query to JSON or bytes."""
    root = tmp_path_factory.mktemp("logs")
    write_everything(root / "run")
    command = [sys.executable, "-m", "trainer.board", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as board:
        assert board.stdout is not None
        url = next(line for line in board.stdout if line.startswith("http")).split()[0]

        def get(path: str, **query: object):
            with urllib.request.urlopen(f"{url}data/{path}?{urllib.parse.urlencode(query)}", timeout=20) as answer:
                data = answer.read()
                return json.loads(data) if "json" in answer.headers["Content-Type"] else data

        deadline = time.monotonic() + 20
        while get("runs") != ["run"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield get
        board.terminate()


def test_scalars_are_served(ask):
    tags = ask("plugin/scalars/tags")["run"]
    assert set(tags) == {"train/loss", "train/accuracy", "val/roc auc"}
    assert tags["val/roc auc"]["description"] == "<p>of <strong>PNEUMONIA</strong></p>"
    points = ask("plugin/scalars/scalars", run="run", tag="train/loss")
    assert [(step, value) for _, step, value in points] == [(n, pytest.approx(1 / (n + 1))) for n in range(5)]


def test_the_time_series_dashboard_has_them_too(ask):
    tags = ask("plugin/timeseries/tags")
    assert set(tags["scalars"]["runTagInfo"]["run"]) == {"train/loss", "train/accuracy", "val/roc auc"}
    assert tags["histograms"]["runTagInfo"]["run"] == ["sizes/height"]
    assert {tag: info["run"]["maxSamplesPerStep"] for tag, info in tags["images"]["tagRunSampledInfo"].items()} == {
        "examples/colour": 2,
        "examples/grey": 1,
    }


def query_of(entry: dict) -> dict[str, str]:
    return dict(urllib.parse.parse_qsl(entry["query"]))


def test_images_are_served_pixel_by_pixel(ask):
    assert ask("plugin/images/tags")["run"]["examples/colour"]["samples"] == 2
    [entry] = ask("plugin/images/images", run="run", tag="examples/colour", sample=1)
    assert entry["step"] == 1
    served = ask("plugin/images/individualImage", **query_of(entry))
    expected = np.arange(2 * 5 * 7 * 3, dtype=np.uint8).reshape(2, 5, 7, 3)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(served))), expected[1])
    [grey] = ask("plugin/images/images", run="run", tag="examples/grey", sample=0)
    pixels = np.asarray(Image.open(io.BytesIO(ask("plugin/images/individualImage", **query_of(grey)))))
    np.testing.assert_array_equal(pixels, expected[0, :, :, 0])


def test_text_is_served_as_a_table(ask):
    assert ask("plugin/text/tags") == {"run": ["notes/table"]}
    [entry] = ask("plugin/text/text", run="run", tag="notes/table")
    assert entry["step"] == 3
    assert "<td>one</td>" in entry["text"]


def test_histograms_are_served(ask):
    [(_, step, buckets)] = ask("plugin/histograms/histograms", run="run", tag="sizes/height")
    assert step == 6
    assert (buckets[0][0], buckets[-1][1]) == (1.0, 9.0)
    assert sum(count for _, _, count in buckets) == 4, "NaN is left out"


def test_curves_are_served_with_the_counts_of_each_threshold(ask):
    assert ask("plugin/pr_curves/tags")["run"]["pr/PNEUMONIA"]["displayName"] == "pr/PNEUMONIA"
    [curve] = ask("plugin/pr_curves/pr_curves", run="run", tag="pr/PNEUMONIA")["run"]
    assert curve["step"] == 7
    for at, threshold in enumerate(curve["thresholds"]):
        positive = np.round(threshold, 9) <= SCORES
        true, false = (WEIGHTS * positive * of_class for of_class in (LABELS, 1 - LABELS))
        assert curve["true_positives"][at] == pytest.approx(true.sum())
        assert curve["false_positives"][at] == pytest.approx(false.sum())
        assert curve["precision"][at] == pytest.approx(true.sum() / (true.sum() + false.sum()))
        assert curve["recall"][at] == pytest.approx(true.sum() / (WEIGHTS * LABELS).sum())
    assert len(curve["thresholds"]) == 201


def test_scores_on_a_threshold_count_as_positive(tmp_path):
    with EventWriter(tmp_path) as events:
        events.pr_curve("x", [True] * 201, np.arange(201) / 200, 0)
    np.testing.assert_array_equal(values_of(tmp_path)["x"][0][1][0], np.arange(201, 0, -1))


def test_a_curve_without_examples_or_positives_divides_by_nothing(tmp_path):
    with EventWriter(tmp_path) as events, np.errstate(all="raise"):
        events.pr_curve("none", np.zeros(0), np.zeros(0), 0)
        events.pr_curve("negative", [0, 0], [0.1, 0.9], 0)
    for [(_, table)] in values_of(tmp_path).values():
        assert not table[4:].any()


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [0.1], r"one shape .* received \[2\], \[1\] and \[2\]"),
        ([[0, 1]], [[0.1, 0.2]], "one shape"),
        ([0, 1], [0.1, 1.5], r"scores in \[0, 1\]; received 0.1 to 1.5"),
        ([0, 1], [0.1, np.nan], r"scores in \[0, 1\]"),
        ([0, 2], [0.1, 0.2], "labels of 0 and 1; received 0.0 to 2.0"),
    ],
)
def test_what_no_curve_can_be_drawn_of(tmp_path, labels, scores, message):
    with EventWriter(tmp_path) as events, pytest.raises(InputError, match=message):
        events.pr_curve("x", labels, scores, 0)


@pytest.mark.parametrize(
    "images",
    [np.zeros((4, 4, 1)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 1), "u1")],
)
def test_what_is_no_picture(tmp_path, images):
    with EventWriter(tmp_path) as events, pytest.raises(InputError, match=r"must be uint8 .* received"):
        events.image("x", images, 0)


@pytest.mark.parametrize("values", [[], [np.nan], [3.0, 3.0]])
def test_a_histogram_of_nothing_or_of_one_number(tmp_path, values):
    with EventWriter(tmp_path) as events:
        events.histogram("x", values, 0)
    [(_, buckets)] = values_of(tmp_path)["x"]
    assert buckets.shape == (30, 3)
    assert buckets[:, 2].sum() == np.isfinite(values).sum()


def test_edges_of_a_histogram(tmp_path):
    with EventWriter(tmp_path) as events:
        events.histogram("x", [0.5, 1.5, 1.6], 0, np.array([0.0, 1.0, 2.0]))
    [(_, buckets)] = values_of(tmp_path)["x"]
    np.testing.assert_array_equal(buckets, [[0, 1, 1], [1, 2, 2]])


def test_threads_write_whole_records(tmp_path):
    with EventWriter(tmp_path) as events:

        def write(name: int) -> None:
            for step in range(200):
                events.scalar(f"thread/{name}", step, step)

        threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = values_of(tmp_path)
    assert {tag: [step for step, _ in points] for tag, points in found.items()} == {
        f"thread/{name}": list(range(200)) for name in range(4)
    }


def test_what_was_flushed_is_on_the_disk_before_the_end(tmp_path):
    events = EventWriter(tmp_path / "new" / "folder")
    events.scalar("x", float("nan"), 3)
    events.flush()
    assert np.isnan(values_of(events.folder)["x"][0][1])
    events.close()
    events.close()


def test_two_writers_of_a_folder_have_files_of_their_own(tmp_path):
    with EventWriter(tmp_path), EventWriter(tmp_path):
        files = list(tmp_path.iterdir())
    assert len(files) == 2
    assert all(is_event_file(path.name) for path in files)
    assert not is_event_file("manifest.json")


def test_nothing_loads_tensorflow(tmp_path):
    code = (
        "import sys, cxr.events as events\n"
        "assert not any(name.split('.')[0] in ('tensorboard', 'tensorflow') for name in sys.modules)\n"
        f"with events.EventWriter({str(tmp_path)!r}) as writer:\n"
        "    writer.scalar('x', 1.5, 2)\n"
        "assert not {'tensorflow', 'keras', 'numba'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert values_of(tmp_path) == {"x": [(2, 1.5)]}


def test_tensorflow_and_keras_keep_their_own_summaries(tmp_path):
    """In one process, after ours: `tf.summary`, Keras's callback and what KerasTuner imports."""
    code = f"""
from cxr.events import EventWriter
with EventWriter({str(tmp_path / "ours")!r}) as events:
    events.scalar("x", 1.0, 1)
import keras, tensorflow as tf
from tensorboard.plugins.hparams import api
with tf.summary.create_file_writer({str(tmp_path / "theirs")!r}).as_default():
    tf.summary.scalar("y", 2.0, 3)
    api.hparams({{"rate": 0.1}})
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
x = tf.ones((4, 1))
model.fit(x, x, verbose=0, callbacks=[keras.callbacks.TensorBoard({str(tmp_path / "keras")!r}, write_graph=False)])
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert values_of(tmp_path / "ours") == {"x": [(1, 1.0)]}
    assert values_of(tmp_path / "theirs")["y"] == [(3, 2.0)]
    assert "epoch_loss" in values_of(tmp_path / "keras" / "train")


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(MissingExtraError, match=r"writing TensorBoard logs needs .*cxr-stream\[train\]"):
        EventWriter(tmp_path)
    assert list(tmp_path.iterdir()) == []

"""The logs of a job: followed while it runs, whole when it is done, and never in its way."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.util import tensor_util

from beam_jobs.execution.progress import ProgressWriter
from beam_jobs.execution.workspace import Workspace
from beam_jobs.results import job_log
from beam_jobs.results.closing_report import JobSummary, closing_report
from beam_jobs.results.job_log import LOG_NAME, JobLog
from cxr.errors import InputError
from cxr.files import temporary_name
from tests.beam_jobs.conftest import run
from tfrecords.format.framing import read_records
from tfrecords.verify import verify


def logs_of(output: Path) -> list[Path]:
    return sorted((output / LOG_NAME).iterdir()) if (output / LOG_NAME).exists() else []


def read_log(output: Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    """(step, value) of every tag of the only log, in order."""
    [path] = logs_of(output)
    found: dict[str, list[tuple[int, np.ndarray]]] = {}
    for record in read_records(path):
        event = Event.FromString(record.data)
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, tensor_util.make_ndarray(value.tensor)))
    return found


def text_of(log: dict, tag: str) -> str:
    [(step, value)] = log[tag]
    assert step == 0
    return value.item().decode()


@pytest.fixture(scope="module")
def finished(phantoms, tmp_path_factory) -> tuple[JobSummary, Path]:
    """A data set with one reject."""
    folder = tmp_path_factory.mktemp("job")
    images = shutil.copytree(phantoms, folder / "images")
    (images / "train" / "NORMAL" / "a | b_c_<i>.jpeg").write_text("not an image")
    return run(images, folder / "data", sizes=(32,), max_reject_fraction=0.1), folder / "data"


@pytest.fixture(scope="module")
def log(finished) -> dict[str, list[tuple[int, np.ndarray]]]:
    return read_log(finished[1])


def test_what_was_printed_is_in_the_log(finished, log):
    summary, _ = finished
    assert summary.logged
    train = summary.manifest.splits["train"]
    images = text_of(log, "data_set/images")
    assert f"{train.images}" in images
    assert all(line.startswith("    ") for line in images.splitlines()), "shown as it is, in columns"
    assert "predictable from the encoding alone" in text_of(log, "data_set/audit")
    for warning in summary.audit["warnings"]:
        assert f"WARNING {warning.split()[0]}" in text_of(log, "data_set/audit")
    assert "train/NORMAL/a | b_c_<i>.jpeg: " in text_of(log, "data_set/rejects")
    assert "[32]" in text_of(log, "data_set/options")
    assert "apache-beam" in text_of(log, "data_set/options")


def test_sizes_are_counted_once_an_image(finished, log):
    summary, _ = finished
    images = sum(split.images for split in summary.manifest.splits.values())
    [(_, buckets)] = log["image_size/megapixels"]
    assert buckets[:, 2].sum() == images
    for name in ("height", "width"):
        [(_, buckets)] = log[f"image_size/{name}"]
        assert buckets[:, 2].sum() == images
        limits = summary.manifest.sizes[name]
        assert buckets[0, 0] <= limits["min"] < buckets[0, 1]
        assert buckets[-1, 0] <= limits["max"] < buckets[-1, 1]
        assert buckets[0, 2] > 0
        assert buckets[-1, 2] > 0


def test_every_split_has_examples(finished, log):
    summary, _ = finished
    found = {tag.removeprefix("examples/") for tag in log if tag.startswith("examples/")}
    assert found == set(summary.manifest.splits)
    [(_, picture)] = log["examples/train"]
    assert picture[2].startswith(b"\x89PNG")


def test_counts_end_with_all_images(finished, log):
    summary, _ = finished
    images = sum(split.images for split in summary.manifest.splits.values())
    assert log["job/headers_read"][-1][1] == images + 1
    assert log["job/images_written"][-1][1] == images
    assert log["job/rejects"][-1][1] == len(summary.rejects) == 1


def test_the_data_set_does_not_know_its_logs(finished):
    _, output = finished
    assert verify(output) == []
    assert LOG_NAME not in (output / "manifest.json").read_text()


def test_a_running_stage_can_be_followed(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.progress.mkdir(parents=True)
    workspace.results.mkdir()
    worker = ProgressWriter(workspace.progress, None)
    with JobLog(workspace) as log, log.stage("images_written", rejects=2):
        time.sleep(1.2)
        assert "job/images_written" not in read_log(tmp_path), "workers are still starting"
        worker.add(7, 1000)
        worker.flush()
        (workspace.results / "train-00000.json").write_text(json.dumps({"rejects": [["a", "b"]]}))
        temporary_name(workspace.results / "train-00001.json").write_text("half")
        deadline = time.monotonic() + 10
        while "job/images_written_per_second" not in (found := read_log(tmp_path)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        [(step, images), *_] = found["job/images_written"]
        assert images == 7
        assert 1 <= step <= 11
        assert found["job/rejects"][0][1] == 3
        [(_, rate), *_] = found["job/images_written_per_second"]
        assert 0 < rate < 14, "images/s since the workers began, over at least half a second"
        worker.add(1, 10)
        worker.flush()
    assert read_log(tmp_path)["job/images_written"][-1][1] == 8


def test_a_failed_job_leaves_its_log_until_one_succeeds(phantoms, tmp_path):
    with pytest.raises(InputError, match="duplicates fail"):
        run(phantoms, tmp_path / "data", duplicates="fail")
    [failed] = logs_of(tmp_path / "data")
    with pytest.raises(InputError, match="duplicates fail"):
        run(phantoms, tmp_path / "data", duplicates="fail")
    assert len(logs_of(tmp_path / "data")) == 2
    run(phantoms, tmp_path / "data")
    [log] = logs_of(tmp_path / "data")
    assert log != failed
    before = log.read_bytes()
    assert not run(phantoms, tmp_path / "data").logged, "nothing was done, so nothing is logged"
    assert [path.read_bytes() for path in logs_of(tmp_path / "data")] == [before]
    run(phantoms, tmp_path / "data", overwrite=True)
    [other] = logs_of(tmp_path / "data")
    assert other != log


def test_a_job_needs_no_tensorboard(phantoms, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    summary = run(phantoms, tmp_path / "data")
    assert not summary.logged
    assert not (tmp_path / "data" / LOG_NAME).exists()
    report = closing_report(summary, "data")
    assert report.count("tensorboard") == 1
    assert "note: no logs for `cxr board`" in report
    assert verify(tmp_path / "data") == []


def test_a_job_needs_no_place_for_its_log(phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(job_log, "_write_texts", Mock(side_effect=OSError(28, "No space left on device")))
    assert run(phantoms, tmp_path / "data").manifest is not None
    assert verify(tmp_path / "data") == []

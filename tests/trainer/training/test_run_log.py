"""What TensorBoard is given while a run trains."""

from __future__ import annotations

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from trainer.training.loop import train
from trainer.training.optimizers import WarmupSchedule
from trainer.training.run_log import report_every


def read(folder) -> dict[str, list[tuple[int, float]]]:
    """Points (step, value) of every scalar, and the number of images of every picture tag."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    found = {}
    for tag in events.Tags()["tensors"]:
        points = events.Tensors(tag)
        if "first_batch" in tag:
            found[tag] = [(point.step, len(point.tensor_proto.string_val) - 2) for point in points]
        elif not tag.startswith("run/"):
            found[tag] = [(point.step, float(make_ndarray(point.tensor_proto))) for point in points]
    return found


def test_scalars_agree_with_the_history(trained):
    history = trained.read_history()
    training, validation = (read(trained.tensorboard / name) for name in ("train", "validation"))
    for name in ("loss", "accuracy", "val_loss", "val_auc"):
        points = (validation if "val_" in name else training)[f"epoch/{name.removeprefix('val_')}"]
        assert [step for step, _ in points] == [1, 2]
        assert [value for _, value in points] == pytest.approx([row[name] for row in history], rel=1e-5)


def test_the_first_batch_is_shown_and_steps_are_numbered_over_all_epochs(trained):
    training = read(trained.tensorboard / "train")
    assert training["first_batch/as_stored"] == training["first_batch/as_trained_on"] == [(0, 8)]
    assert [step for step, _ in training["step/loss"]] == [2, 4, 6, 10, 12, 14]  # 8 steps an epoch, which has its own
    rates = [value for _, value in training["step/learning_rate"]]
    schedule = WarmupSchedule(0.005, "cosine", total_steps=16, warmup_steps=4)
    assert rates == pytest.approx([float(schedule(step)) for step in (2, 4, 6, 10, 12, 14)], rel=1e-5)
    assert "step/loss_scale" not in training
    assert all(0 <= value <= 1 for _, value in training["input/wait_share"])


def test_loss_scale_and_skipped_steps_of_float16(data, start, tmp_path):
    run = start(tmp_path / "run", data, mixed_precision="float16", epochs=1)
    train(run, data, quiet=True)
    training = read(run.tensorboard / "train")
    scales = [value for _, value in training["step/loss_scale"]]
    skipped = [value for _, value in training["step/skipped_steps"]]
    assert all(scale >= 1 for scale in scales)
    assert all(0 <= count <= 6 for count in skipped)
    # each step that was skipped halved the scale, which begins at 2**15
    assert scales[-1] == 2.0 ** (15 - skipped[-1])


def test_reports_suit_the_length_of_an_epoch():
    assert [report_every(steps) for steps in (1, 3, 8, 100, 1000)] == [1, 1, 2, 25, 50]

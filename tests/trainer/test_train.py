"""The command line of training: what it makes of its arguments, and what it refuses before anything is done."""

from __future__ import annotations

import json

import pytest

from cxr.console import run_command
from cxr.errors import InputError
from trainer.presets import PRESETS
from trainer.run import open_run
from trainer.train import COMMAND, choose_config, main
from trainer.train_config import TrainConfig

TINY = ["--model", "cnn3", "--model-options", "filters=4,8", "dense=8", "--image-size", "32", "--batch-size", "8",
        "--epochs", "1", "--quiet"]  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_configuration(name):
    config, _ = choose_config(name, None, {})
    assert config.to_json().items() >= PRESETS[name].config.items()
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_options_replace_the_file_which_replaces_the_preset(tmp_path):
    file = tmp_path / "best.json"
    file.write_text(json.dumps({"epochs": 7, "learning_rate": 0.5}))
    config, _ = choose_config("mlp", str(file), {"learning_rate": 0.25})
    assert (config.model, config.epochs, config.learning_rate) == ("mlp", 7, 0.25)


def test_a_run_can_be_repeated_from_its_own_record(trained):
    file = str(trained.root / "run.json")
    assert choose_config(None, file, {}) == (trained.config, "PNEUMONIA")
    plain = choose_config(None, file, {"augment": "none"})[0].resolved().augment_options
    assert plain == TrainConfig(augment="none").resolved().augment_options
    options = choose_config(None, file, {"model_options": {"dropout": 0.1}})[0].model_options
    assert (options["filters"], options["dropout"]) == ([4, 8], 0.1)
    assert choose_config(None, file, {"model": "mlp"})[0].model_options == {}


def test_options_beside_a_preset_need_not_mind_its_frozen_epochs():
    assert choose_config("vgg16-frozen", None, {"epochs": 5})[0].freeze_epochs == 5
    assert choose_config("vgg16-frozen", None, {"weights": "none"})[0].freeze_epochs == 0
    with pytest.raises(InputError, match="more than epochs=5"):
        choose_config("vgg16-frozen", None, {"epochs": 5, "freeze_epochs": 6})


@pytest.mark.parametrize(("fields", "message"), [
    ({"epoch": 3}, "has no option 'epoch'; did you mean epochs"),
    ({"epochs": 0}, "epochs=0: expected a whole number of at least 1"),
    ({"learning_rate": 0}, "learning_rate=0: expected a number above 0"),
    ({"label_smoothing": 1.0}, "a number from 0 to 0.999"),
    ({"image_size": 8}, "expected a side of 16 to 16384 pixels, HEIGHTxWIDTH, or .native."),
    ({"image_size": [64, 64, 64]}, "expected a side"),
    ({"augment": "wild"}, "augment='wild': expected one of none, light, strong"),
    ({"augment_options": {"rotate": 5}}, "augmentation has no option 'rotate'"),
    ({"model": "resnet"}, "did you mean resnet"),
    ({"model_options": {"width": 5}}, "width"),
    ({"monitor": "auc"}, "expected one of val_auc"),
    ({"freeze_epochs": 2}, "without --weights there are none"),
    ({"epochs": 2, "warmup_epochs": 3}, "longer than epochs"),
    ({"schedule": "linear"}, "expected one of constant, cosine"),
])  # fmt: skip
def test_bad_values_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        TrainConfig.from_json(fields)


def test_options_of_options():
    given = COMMAND.parse(
        ["--run", "r", "--model-options", "filters=32,64", "pool=max", "--model-options", "dropout=0.5", "flip=true",
         "--image-size", "256x320"]
    )  # fmt: skip
    assert given["model_options"] == {"filters": [32, 64], "pool": "max", "dropout": 0.5, "flip": True}
    assert given["image_size"] == (256, 320)
    assert COMMAND.parse(["--run", "r", "--image-size", "native"])["image_size"] == "native"


def test_from_the_command_line(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["--data", str(data.root), "--run", str(run), *TINY, "--positive", "NORMAL"]) == 0
    said = capsys.readouterr().out
    assert "cnn3 on 32 x 32 pixels, float32 on CPU; binary: NORMAL, PNEUMONIA" in said
    assert "best epoch: 1 of 1, val_auc" in said
    assert f"cxr evaluate --run {run}" in said
    assert open_run(run).facts.positive == "NORMAL"
    assert main(["--run", str(run), "--resume"]) == 0
    assert "is finished; nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "status", "message"), [
    ([], 2, "--data is missing"),
    (["--data", "{data}", "--weights", "nowhere.h5", "--model", "vgg16"], 1, "nowhere.h5"),
    (["--data", "{data}", "--weights", "imagenet", "--model", "cnn3"], 1, "takes no pretrained weights"),
    (["--data", "nowhere"], 1, "nowhere"),
    (["--data", "{data}", "--positive", "COVID"], 1, "no label 'COVID'; the data set has NORMAL, PNEUMONIA"),
    (["--data", "{data}", "--config", "nowhere.json"], 1, "--config nowhere.json cannot be read"),
    (["--resume"], 1, "is not a run"),
    (["--data", "{data}", "--batch-size", "5000"], 1, "fewer than a batch"),
    (["--data", "{data}", "--model-options", "filters"], 2, "filters: expected values by name, NAME=VALUE"),
    (["--data", "{data}", "--threads", "0"], 2, "--threads 0: expected a whole number of at least 1"),
    (["--data", "{data}", "--checkpoint-seconds", "-1"], 2, "--checkpoint-seconds -1: expected a number of at"),
    (["--data", "{data}", "--epoch", "3"], 2, "has no option --epoch; did you mean --epochs?"),
])  # fmt: skip
def test_what_is_refused_leaves_nothing_behind(data, tmp_path, capsys, arguments, status, message):
    run = tmp_path / "run"
    given = [part.format(data=data.root) for part in arguments]
    assert run_command(main, ["--run", str(run), *given]) == status
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said
    assert not run.exists()


def test_resuming_otherwise_is_refused(trained, tmp_path, capsys):
    assert run_command(main, ["--run", str(trained.root), "--resume", "--epochs", "9"]) == 1
    assert "epochs 2 in the run, 9 now" in capsys.readouterr().err


def test_the_models_are_listed(capsys):
    assert main(["--list-models"]) == 0
    said = capsys.readouterr().out
    for name in ("cnn-separable", "densenet121", "vgg19", "filters"):
        assert name in said

"""Training on several devices of one host: a process that sees the CPU as two of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

_CODE = """
import json, os, sys
if os.environ["KERAS_BACKEND"] == "tensorflow":
    import tensorflow as tf
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from tfrecords import open_dataset
from trainer.train_config import TrainConfig
from trainer.training.devices import device_scope
from trainer.facts import DataFacts
from trainer.run import create_run
from trainer.training.loop import train
data, folder, options = open_dataset(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
with device_scope(2) as replicas:
    pass
found = {"replicas": replicas}
for devices in (1, 2):
    run = create_run(f"{folder}/{devices}", TrainConfig.from_json(options), DataFacts.of(data))
    found[devices] = train(run, data, devices=devices, quiet=True)
    found[f"again {devices}"] = train(run, data, devices=devices, resume=True, quiet=True)
print(json.dumps(found))
"""


def test_two_devices_learn_what_one_learns(data, small, tmp_path):
    options = small(
        augment="none",
        optimizer="sgd",
        class_weights="none",
        model_options={"filters": [4, 8], "dense": [8], "dropout": 0.0},
    )
    environment = {
        **os.environ, "KERAS_BACKEND": keras.backend.backend(), "XLA_FLAGS": "--xla_force_host_platform_device_count=2"
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", _CODE, data.root, tmp_path, json.dumps(options.to_json())],
        cwd=Path(__file__).parents[3], env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    histories = json.loads(done.stdout.splitlines()[-1])
    assert histories["replicas"] == 2
    for one, two in zip(histories["1"], histories["2"], strict=True):
        for name in ("loss", "val_loss"):
            assert two[name] == pytest.approx(one[name], rel=5e-2)
    assert histories["1"][0]["loss"] != histories["1"][1]["loss"]
    assert histories["again 2"] == histories["2"]  # a finished run is read again

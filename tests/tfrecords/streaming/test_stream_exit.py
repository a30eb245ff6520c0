"""A process that stops in the middle of an endless stream ends, and says what it has to say."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BEGIN = """
import sys, tfrecords
stream = tfrecords.open_dataset(sys.argv[1]).stream("train", image_size=512, training=True, cache="none", rung="full")
batches = iter(stream)
for _ in range(3):
    images, labels = next(batches)
"""
ENDINGS = {
    "end of the script": ("print('done')", 0, "done"),
    "a failed fit": (
        """
import keras
class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            raise RuntimeError('stopped')
model = keras.Sequential([keras.Input((512, 512, 1)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)])
model.compile('sgd', 'sparse_categorical_crossentropy')
model.fit(stream, steps_per_epoch=9, verbose=0, callbacks=[Stop()])
""",
        1,
        "",
    ),
}


@pytest.fixture(scope="module")
def endings(make, tmp_path_factory) -> dict[str, subprocess.CompletedProcess]:
    """Every ending, in processes that run at the same time."""
    made = make(tmp_path_factory.mktemp("ending") / "set", shards={"train": (10, 10)})
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    running = {}
    for name, (end, _, _) in ENDINGS.items():
        command = [sys.executable, "-c", BEGIN + end, str(made.root)]
        running[name] = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment)
    done = {}
    for name, process in running.items():
        try:
            printed, said = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, said = process.communicate()
        done[name] = subprocess.CompletedProcess(process.args, process.returncode, printed, said)
    return done


@pytest.mark.parametrize("name", ENDINGS)
def test_the_process_ends(endings, name):
    _, status, printed = ENDINGS[name]
    ended = endings[name]
    assert ended.returncode == status, ended.stderr
    assert printed in ended.stdout
    assert status == 0 or "RuntimeError: stopped" in ended.stderr

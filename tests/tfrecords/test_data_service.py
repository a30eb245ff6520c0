"""A tf.data service of real processes: one dispatcher, two workers, this process as the training host."""

from __future__ import annotations

import collections
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

import tfrecords
from cxr import cli
from cxr.errors import CorruptError, InputError
from tfrecords.streaming.loader import forget_loaders
from tfrecords.streaming.stream import plain_errors

ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


def start(*arguments: str) -> subprocess.Popen:
    """`cxr data-service ...`."""
    command = [sys.executable, "-m", "cxr", "data-service", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT)


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """Address of a running service."""
    dispatcher = start("dispatcher", "--port", "0")
    workers: list[subprocess.Popen] = []
    try:
        address = re.search(r"grpc://\S+:\d+", dispatcher.stdout.readline())[0]
        workers += [start("worker", "--dispatcher", address.removeprefix("grpc://")) for _ in range(2)]
        for worker in workers:
            assert "worker of dispatcher" in worker.stdout.readline()
        yield address
        for process in (*workers, dispatcher):
            process.send_signal(signal.SIGTERM)
        assert [process.wait(30) for process in (*workers, dispatcher)] == [0, 0, 0]
    finally:
        for process in (*workers, dispatcher):
            process.kill()
            process.wait()
            process.stdout.close()


def test_each_example_once_an_epoch_with_its_own_pixels(make, tmp_path, service):
    made = make(tmp_path / "set", shards={"train": (5, 4, 4), "val": (2,)})
    data = tfrecords.open_dataset(made.root)
    options = {"image_size": 20, "batch_size": 3, "metadata": True, "cache": "none"}
    expected = {}
    for images, _, facts in data.stream("train", **options):
        expected.update(zip(facts["path"].numpy(), images.numpy(), strict=True))
    seen: collections.Counter[bytes] = collections.Counter()
    for images, _, facts in data.stream("train", training=True, epochs=3, data_service=service, **options):
        for path, image in zip(facts["path"].numpy(), images.numpy(), strict=True):
            seen[path] += 1
            np.testing.assert_array_equal(image, expected[path])
    assert seen == dict.fromkeys(expected, 3)
    assert len(expected) == 13


def test_damage_on_a_worker_is_named(make, tmp_path, service):
    made = make(tmp_path / "set")
    path = made.manifest.shard_paths(made.root, "24", "train")[1]
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)
    stream = tfrecords.open_dataset(made.root).stream(
        "train", image_size=20, training=True, epochs=1, data_service=service
    )
    with pytest.raises(CorruptError, match=r"00001-of-00002: record 1 at byte .* match its CRC"), plain_errors():
        list(stream)
    forget_loaders()


def test_evaluation_does_not_go_through_a_service(dataset):
    with pytest.raises(InputError, match="does not keep the order"):
        tfrecords.open_dataset(dataset.root).stream("val", data_service="grpc://localhost:1")


def test_a_bad_address_is_refused(dataset):
    with pytest.raises(InputError, match=r"expected an address such as grpc://host:5050"):
        tfrecords.open_dataset(dataset.root).stream("train", training=True, data_service="localhost:5050")


def test_a_bad_port_is_refused(capsys):
    assert cli.main(["data-service", "dispatcher", "--port", "70000"]) == 1
    assert "--port 70000: expected 0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "message"),
    [("nowhere", "expected an address such as host:5050"), ("localhost:1", "no dispatcher answers at localhost:1")],
)
def test_a_worker_without_a_dispatcher(capsys, address, message):
    assert cli.main(["data-service", "worker", "--dispatcher", address]) == 1
    assert message in capsys.readouterr().err


def test_a_taken_port_is_an_error(service):
    port = service.rpartition(":")[2]
    second = subprocess.run(
        [sys.executable, "-m", "cxr", "data-service", "dispatcher", "--port", port],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=120,
    )  # fmt: skip
    assert second.returncode == 1
    assert f"error: the dispatcher cannot listen on port {port}" in second.stderr

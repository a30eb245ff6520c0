"""`cxr bench`: the figures hang together, and the advice fits what was measured."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cxr import cli
from tfrecords.bench import STAGES, measure, to_text


@pytest.fixture
def source_set(make, tmp_path):
    """A data set of JPEG and PNG files without rungs."""
    return make(tmp_path / "set", encoding="source", sizes=(), shards={"train": (12, 9)})


@pytest.mark.parametrize("image_size", [16, (20, 10), None])
def test_stages_add_up(dataset, image_size):
    found = measure(dataset.root, "train", seconds=0.05, image_size=image_size, batch_size=2, threads=2)
    assert [stage.name for stage in found.stages] == [*STAGES, "cached"]
    stages = found.stages[:-1]
    rates = [stage.images_s for stage in stages]
    assert rates == sorted(rates, reverse=True)
    assert all(stage.own_ms >= 0 for stage in stages)
    for position, stage in enumerate(stages):
        assert stage.images_s == pytest.approx(2e3 / sum(one.own_ms for one in stages[: position + 1]))
    assert found.bottleneck == max(stages, key=lambda stage: stage.own_ms).name
    assert found.images == 5
    assert found.rung == ("24" if image_size is not None else "full")
    assert found.advice
    text = to_text(found, "here")
    assert f"bottleneck: {found.bottleneck}" in text
    assert all(advice in text for advice in found.advice)


def test_units(dataset):
    found = measure(dataset.root, "train", seconds=0.05, image_size=16, threads=1)
    records = [record for record, _ in dataset.expected["24"]["train"]]
    pixels = sum(record.height * record.width for record in records) / len(records)
    shards = dataset.manifest.rungs["24"].shards["train"]
    stored = sum(shard.bytes - 16 * shard.records for shard in shards) / len(records)
    for stage in found.stages:
        assert stage.megapixels_s == pytest.approx(stage.images_s * pixels / 1e6)
        assert stage.gigabytes_s == pytest.approx(stage.images_s * stored / 1e9)


def test_a_rung_is_advised_where_full_images_are_shrunk(source_set):
    found = measure(source_set.root, "train", seconds=0.05, image_size=8)
    assert found.encoding == "source"
    assert found.bottleneck == "batch" or any("--sizes 8" in advice for advice in found.advice)


def test_command_line(dataset, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    arguments = ["bench", str(dataset.root), "--seconds", "0.05", "--image-size", "16", "--json", str(figures)]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "megapixels/s" in printed
    assert "bottleneck:" in printed
    written = json.loads(figures.read_text())
    assert written["images"] == 5
    assert [stage["name"] for stage in written["stages"]][: len(STAGES)] == list(STAGES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image-size", "big"], "--image-size big: expected a side in pixels, or native"),
        (["--split", "test"], "no split 'test'; the data set has train, val"),
        (["--rung", "512"], "no rung '512'"),
        (["--seconds", "0"], "--seconds 0"),
    ],
)
def test_bad_arguments(dataset, capsys, arguments, message):
    assert cli.main(["bench", str(dataset.root), *arguments]) in (1, 2)
    assert message in capsys.readouterr().err


def test_a_wrong_split_or_rung_is_named_before_anything_heavy_is_loaded(dataset):
    code = (
        "import sys\nfrom cxr import cli\n"
        f"assert cli.main(['bench', {str(dataset.root)!r}, '--split', 'test']) == 1\n"
        f"assert cli.main(['bench', {str(dataset.root)!r}, '--rung', '512']) == 1\n"
        "print(sorted({'tensorflow', 'keras', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no split 'test'" in done.stderr
    assert "no rung '512'" in done.stderr
    assert done.stdout == "[]\n"

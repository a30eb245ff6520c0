"""Known data sets through the whole job: every record says what the publisher's tables say."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest

from beam_jobs.job import describe_source
from beam_jobs.preprocess_config import PreprocessConfig
from beam_jobs.sources.known_layouts import known_layouts
from cxr.errors import InputError
from tests.beam_jobs.conftest import run
from tfrecords.format.framing import read_records
from tfrecords.format.manifest import Manifest
from tfrecords.format.schema import Record
from tfrecords.images import codec
from tfrecords.verify import verify


def records_of(root: Path, manifest: Manifest) -> dict[str, tuple[str, Record]]:
    """(split, record) by path."""
    return {
        record.path: (split, record)
        for split in manifest.splits
        for path in manifest.shard_paths(root, "full", split)
        for frame in read_records(path)
        for record in [manifest.schema().parse(frame.data)]
    }


@pytest.mark.parametrize("name", known_layouts())
def test_a_known_set_becomes_the_data_set_that_its_tables_describe(tmp_path: Path, imitation, name: str):
    known = imitation(name)
    manifest = run(known.root, tmp_path / "set").manifest
    assert verify(tmp_path / "set", deep=True) == []
    records = records_of(tmp_path / "set", manifest)
    assert set(records) == set(known.images)
    patients: dict[str, set[str]] = collections.defaultdict(set)
    for path, (split, record) in records.items():
        said = known.images[path]
        assert {manifest.labels[index] for index in record.labels} == said.labels
        assert {manifest.labels[index] for index in record.unknown} == said.unknown
        assert record.patient == (said.patient or path)
        assert (record.view, record.age, record.sex) == (said.view, said.age, said.sex)
        if said.split != split:  # the publisher's, or a validation split that was set apart
            assert said.split is None or {said.split, split} == {"train", "val"}
        patients[record.patient].add(split)
    assert all(len(splits) == 1 for splits in patients.values())
    assert {"train", "val"} <= set(manifest.splits)
    if not any(said.split for said in known.images.values()):
        assert manifest.splits["test"].images == pytest.approx(0.1 * len(records), abs=4)


def test_a_dry_run_says_what_the_job_does_and_writes_nothing(tmp_path: Path, imitation):
    known = imitation("chexpert")
    said = describe_source(PreprocessConfig(str(known.root), str(tmp_path / "set"), dry_run=True))
    assert said.startswith("recognised as CheXpert (--layout chexpert; --layout none forbids it)\n")
    assert "uncertain labels (-1) are unknown" in said and "labels not mentioned count as absent" in said
    assert not (tmp_path / "set").exists()
    manifest = run(known.root, tmp_path / "set").manifest
    for name, split in manifest.splits.items():
        (row,) = (line.split() for line in said.splitlines() if line.startswith(f"{name} "))
        assert row[1:] == list(map(str, (split.images, split.patients, *split.labels.values())))


def test_the_scale_of_a_data_set_is_decided_once_and_written_down(tmp_path: Path, imitation):
    """PadChest's images use 12 or 14 of 16 bits: the brightest is nearly white, and 12 bits are a quarter of that."""
    known = imitation("padchest")
    manifest = run(known.root, tmp_path / "set").manifest
    assert (manifest.scale, manifest.bit_depth) == (14, 16)
    for path, (_, record) in records_of(tmp_path / "set", manifest).items():
        number = int(path.split("_")[0][-6:])
        assert codec.decode(record).max() == pytest.approx(65535 / (4 if number % 2 else 1), rel=0.2)
    with pytest.raises(InputError, match=r"uses 1[24] of them"):
        run(known.root, tmp_path / "full", scale="full")

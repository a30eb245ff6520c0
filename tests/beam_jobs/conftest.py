"""Jobs in one process, on a smaller set of phantoms than other tests have."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_jobs.job import preprocess
from beam_jobs.preprocess_config import PreprocessConfig
from beam_jobs.results.closing_report import JobSummary
from phantoms.phantom import PhantomConfig, write_phantoms

IN_PROCESS = ("--runner=FnApiRunner", "--direct_num_workers=1", "--direct_running_mode=in_memory")


def run(source: Path, output: Path, **options) -> JobSummary:
    return preprocess(PreprocessConfig(str(source), str(output), **options), IN_PROCESS, quiet=True)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """A folder of about 50 phantoms in train, val and test, with two planted duplicates."""
    folder = tmp_path_factory.mktemp("phantoms") / "images"
    write_phantoms(PhantomConfig(to=str(folder), patients=32, seed=3, duplicates=2, scale=0.26))
    return folder

"""`cxr preprocess`: from a folder of X-rays to a verified TFRecord data set. The command line of `job.py`."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from types import ModuleType

from beam_jobs.preprocess_config import PreprocessConfig
from cxr.command import Command, Given
from cxr.console import run_command
from cxr.kinds import Flag
from cxr.options import Options, option, options

SALT_VARIABLE = "CXR_PATIENT_SALT"
_DESCRIPTION = """\
Decodes every image once, at full resolution, checks it, and writes sharded TFRecords with a manifest, an
audit and a list of rejects. After an interruption, the same command resumes."""
_EPILOG = f"""\
Options not listed here go to Apache Beam: --runner, --direct_num_workers, ... Without --runner, all local
cores are used. DICOM patient ids are stored only as a salted hash; set the environment variable
{SALT_VARIABLE} to a secret of your own.

examples:
  cxr preprocess --input chest_xray --output data/cxr --sizes 512,256
  cxr preprocess --input scans.zip --output data/scans --split patient --fractions 0.7,0.15,0.15
  cxr preprocess --input labels.csv --images-root /scans --output data/multi --encoding png
"""


@options
class ShownOptions(Options):
    """What `cxr preprocess` shows; the job itself is `beam_jobs.preprocess_config.PreprocessConfig`."""

    quiet: bool = option(Flag(), "no progress bars", default=False)


def run(given: Given) -> int:
    """Makes, or completes, the data set that a command line describes."""
    pipeline = _import_pipeline()
    from beam_jobs.job import describe_source, preprocess
    from beam_jobs.results.closing_report import closing_report

    pipeline.check_beam_arguments(given.rest, COMMAND.flags)
    config = given.make(PreprocessConfig, patient_salt=os.environ.get(SALT_VARIABLE))
    if config.dry_run:
        print(describe_source(config))
        return 0
    try:
        summary = preprocess(config, given.rest, given.get("quiet", False))
    except KeyboardInterrupt:
        print("\nrun the same command again to continue", file=sys.stderr)
        raise
    print(closing_report(summary, config.output))
    return 0


def _import_pipeline() -> ModuleType:
    """Imports Beam without its note that the Google Cloud client is not installed."""
    logging.disable(logging.WARNING)
    try:
        return importlib.import_module("beam_jobs.execution.pipeline")
    finally:
        logging.disable(logging.NOTSET)


COMMAND = Command("preprocess", _DESCRIPTION, run, (PreprocessConfig, ShownOptions), _EPILOG, needs="beam", passes=True)
main = COMMAND.main

if __name__ == "__main__":
    raise SystemExit(run_command(main))

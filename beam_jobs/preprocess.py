"""`cxr preprocess`: from a folder of X-rays to a verified TFRecord data set. The command line of `job.py`."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from cxr.console import run_command
from cxr.errors import MissingExtraError

SALT_VARIABLE = "CXR_PATIENT_SALT"
_DESCRIPTION = """\
Decodes every image once, at full resolution, checks it, and writes sharded TFRecords with a manifest, an
audit and a list of rejects. Killed or stopped, the same command continues where it was."""
_EPILOG = f"""\
Options not listed here go to Apache Beam: --runner, --direct_num_workers, ... Without --runner, all local
cores are used. DICOM patient ids are stored only as a salted hash; set the environment variable
{SALT_VARIABLE} to a secret of your own.

examples:
  cxr preprocess --input chest_xray --output data/cxr --sizes 512,256
  cxr preprocess --input scans.zip --output data/scans --split patient --fractions 0.7,0.15,0.15
  cxr preprocess --input labels.csv --images-root /scans --output data/multi --encoding png
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of `cxr preprocess`."""
    parser = argparse.ArgumentParser(
        prog="cxr preprocess",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    source = parser.add_argument_group("source")
    source.add_argument(
        "--input",
        required=True,
        metavar="SRC",
        help="folder or .zip of split/class/image or class/image files; a .csv, .tsv or .jsonl table with the columns "
        "path,label and optionally patient,split,cause (several labels joined by '|'); or tfds:NAME",
    )
    source.add_argument("--images-root", metavar="DIR", help="what a table's paths are relative to (its own folder)")
    source.add_argument("--tfds-data-dir", metavar="DIR", help="where TFDS keeps its data, for tfds:NAME")
    source.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="where the path names the patient: the first group, e.g. '(patient\\d+)/' (Kermany names are known)",
    )
    source.add_argument(
        "--max-megapixels", type=float, metavar="N", help="reject larger images undecoded, as decompression bombs (100)"
    )
    source.add_argument(
        "--max-reject-fraction",
        type=float,
        metavar="F",
        help="share of images that may be unusable before it fails (0)",
    )
    what = parser.add_argument_group("data set")
    what.add_argument("--output", required=True, metavar="DIR", help="where to write it")
    what.add_argument("--name", help="first part of the shards' file names (cxr)")
    what.add_argument(
        "--split",
        choices=("folder", "patient"),
        help="take the source's splits, or make new ones by patient (folder where the source has splits)",
    )
    what.add_argument(
        "--fractions", type=_numbers, metavar="T,V,T", help="train, val and test under --split patient (0.8,0.1,0.1)"
    )
    what.add_argument(
        "--val-fraction",
        type=float,
        metavar="F",
        help="share of train carved out for validation, by patient, where the source's own is missing or tiny, "
        "which is then joined to train; test is left alone; 0 never carves (0.1)",
    )
    what.add_argument(
        "--labels",
        choices=("binary", "cause"),
        help="classes as the source names them, or normal / bacterial / viral (binary)",
    )
    what.add_argument("--classes", type=_names, metavar="A,B", help="label names in order (those found, normal first)")
    what.add_argument(
        "--duplicates", choices=("keep", "drop", "fail"), help="what to do about images with equal pixels (keep)"
    )
    what.add_argument(
        "--encoding",
        choices=("source", "png", "raw"),
        help="full images as their own verified JPEG or PNG file, as PNG, or as plain pixels; the decoded pixels are "
        "the same (source)",
    )
    what.add_argument(
        "--sizes", type=_integers, metavar="N,N", help="smaller rungs, by short side in pixels, e.g. 512,256 (none)"
    )
    what.add_argument("--rung-encoding", choices=("raw", "png"), help="of the smaller rungs (raw)")
    what.add_argument("--shard-mb", type=float, metavar="MB", help="size to aim at for a full-resolution shard (128)")
    what.add_argument("--seed", type=int, metavar="N", help="of splits, order and shards (0)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the data set or unfinished job that the output holds"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cxr preprocess`; returns the exit status."""
    parser = build_parser()
    arguments, beam_arguments = parser.parse_known_args(argv)
    pipeline = _import_pipeline()
    from beam_jobs.job import preprocess
    from beam_jobs.preprocess_config import PreprocessConfig
    from beam_jobs.results.closing_report import closing_report

    pipeline.check_beam_arguments(beam_arguments, parser._option_string_actions)
    given: dict[str, Any] = {name: value for name, value in vars(arguments).items() if value is not None}
    quiet = given.pop("quiet")
    salt = os.environ.get(SALT_VARIABLE)
    config = PreprocessConfig(**given, patient_salt=salt)
    try:
        summary = preprocess(config, beam_arguments, quiet)
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
    except ImportError as error:
        raise MissingExtraError("preprocessing", error.name or "apache-beam", "beam") from error
    finally:
        logging.disable(logging.NOTSET)


def _parts(text: str, kind: type, what: str) -> tuple:
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected {what} separated by commas, received {text!r}") from error


def _numbers(text: str) -> tuple[float, ...]:
    return _parts(text, float, "numbers")


def _integers(text: str) -> tuple[int, ...]:
    return _parts(text, int, "whole numbers")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


if __name__ == "__main__":
    raise SystemExit(run_command(main))

"""The options of a preprocessing job, checked when they are made."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from typing import Any, Literal, get_args

from beam_jobs.sources.naming import compile_patient_pattern
from cxr.errors import InputError
from tfrecords.images.decode import DEFAULT_MAX_PIXELS

Split = Literal["folder", "patient"]
Labels = Literal["binary", "cause"]
Encoding = Literal["source", "png", "raw"]
RungEncoding = Literal["png", "raw"]
Duplicates = Literal["keep", "drop", "fail"]

NOT_IN_RESULT = ("input", "output", "images_root", "tfds_data_dir", "overwrite", "max_reject_fraction")
"""Options that change where and whether a data set is written, but not one byte of it."""
TFDS_PREFIX = "tfds:"
DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)
DEFAULT_VAL_FRACTION = 0.1


@dataclasses.dataclass(frozen=True)
class PreprocessConfig:
    """What to make a data set from, and how.

    Attributes:
      input: a folder, a .zip, a .csv/.tsv/.jsonl table, or `tfds:NAME`.
      output: directory of the data set.
      split: `folder` keeps the source's splits, `patient` makes new ones; None decides by the source.
      fractions: of patients in train, val and test under `patient`, summing to 1; None for 0.8, 0.1, 0.1.
      val_fraction: under `folder`, the share of training patients to carve out for validation where the
        source's own validation split is missing or holds less than half of that; 0 never carves; None for 0.1.
      labels: `binary` takes the classes as the source names them, `cause` normal, bacterial, viral.
      classes: label names in order; None takes those found, normal first, then by alphabet.
      encoding: of the full-resolution images: `source` keeps verified JPEG and PNG files, else PNG;
        `png`; or `raw` pixels.
      sizes: short sides of the smaller rungs, pixels.
      rung_encoding: of the smaller rungs.
      shard_mb: size to aim at for a full-resolution shard, 2**20 bytes.
      duplicates: what to do about images with equal pixels.
      max_reject_fraction: share of images, in [0, 1], that may be unreadable before the job fails.
      max_megapixels: images with more are rejected undecoded.
      seed: of the split, the order and the shards.
      name: first part of the shards' file names.
      patient_pattern: regular expression over the path; its first group is the patient key.
      patient_salt: secret that DICOM patient ids are hashed with.
      images_root: for a table, the directory its paths are relative to.
      tfds_data_dir: for `tfds:NAME`, TFDS's data directory.
      overwrite: replace the data set, or the unfinished job, that the output holds.
    """

    input: str
    output: str
    split: Split | None = None
    fractions: tuple[float, float, float] | None = None
    val_fraction: float | None = None
    labels: Labels = "binary"
    classes: tuple[str, ...] | None = None
    encoding: Encoding = "source"
    sizes: tuple[int, ...] = ()
    rung_encoding: RungEncoding = "raw"
    shard_mb: float = 128.0
    duplicates: Duplicates = "keep"
    max_reject_fraction: float = 0.0
    max_megapixels: float = DEFAULT_MAX_PIXELS / 1e6
    seed: int = 0
    name: str = "cxr"
    patient_pattern: str | None = None
    patient_salt: str | None = None
    images_root: str | None = None
    tfds_data_dir: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for option, kind in (
            ("labels", Labels),
            ("encoding", Encoding),
            ("rung_encoding", RungEncoding),
            ("duplicates", Duplicates),
        ):
            _check(getattr(self, option) in get_args(kind), option, f"one of {', '.join(get_args(kind))}", self)
        _check(self.split in (None, *get_args(Split)), "split", f"one of {', '.join(get_args(Split))}", self)
        parts = DEFAULT_FRACTIONS if self.fractions is None else self.fractions
        _check(
            len(parts) == 3
            and all(0 <= part <= 1 for part in parts)
            and math.isclose(sum(parts), 1, abs_tol=1e-6)
            and parts[0] > 0,
            "fractions",
            "three numbers TRAIN,VAL,TEST in [0, 1] that sum to 1, the first above 0",
            self,
        )
        _check(self.val_fraction is None or 0 <= self.val_fraction < 1, "val_fraction", "a number in [0, 1)", self)
        _check(
            self.fractions is None or self.val_fraction is None,
            "val_fraction",
            "not both --fractions (new splits) and --val-fraction (the source's splits)",
            self,
        )
        _check(
            self.fractions is None or self.split != "folder", "fractions", "no --fractions with --split folder", self
        )
        _check(
            self.val_fraction is None or self.split != "patient",
            "val_fraction",
            "no --val-fraction with --split patient; see --fractions",
            self,
        )
        _check(
            self.tfds_data_dir is None or self.input.startswith(TFDS_PREFIX),
            "tfds_data_dir",
            f"an --input that begins with {TFDS_PREFIX}",
            self,
        )
        _check(
            self.images_root is None or not self.input.startswith(TFDS_PREFIX),
            "images_root",
            "a table as --input",
            self,
        )
        _check(0 <= self.max_reject_fraction <= 1, "max_reject_fraction", "a number in [0, 1]", self)
        _check(0 < self.shard_mb < math.inf, "shard_mb", "a finite number above 0", self)
        _check(0 < self.max_megapixels < math.inf, "max_megapixels", "a finite number above 0", self)
        _check(all(size >= 8 for size in self.sizes), "sizes", "short sides of at least 8 pixels", self)
        _check(len(set(self.sizes)) == len(self.sizes), "sizes", "each size once", self)
        _check(
            self.classes is None or len(set(self.classes)) == len(self.classes) >= 2,
            "classes",
            "at least two different names",
            self,
        )
        _check(self.classes is None or self.labels == "binary", "classes", "no --classes with --labels cause", self)
        # TFDS tells data set, split and shard number apart by these signs
        _check(
            re.fullmatch(r"[a-z][a-z0-9_]*", self.name) is not None, "name", "lower-case letters, digits and _", self
        )
        if self.patient_pattern is not None:
            compile_patient_pattern(self.patient_pattern)

    @property
    def max_pixels(self) -> int:
        """The limit on width x height."""
        return round(self.max_megapixels * 1e6)

    @property
    def salt(self) -> str:
        """What DICOM patient ids are hashed with."""
        return self.patient_salt if self.patient_salt is not None else f"cxr-stream-{self.seed}"

    def result_options(self) -> dict[str, Any]:
        """The options that change what is written, as JSON types; of the salt, only a slow hash (RFC 7914)."""
        options = {name: value for name, value in dataclasses.asdict(self).items() if name not in NOT_IN_RESULT}
        if self.patient_salt is not None:
            options["patient_salt"] = hashlib.scrypt(
                self.patient_salt.encode(), salt=b"cxr-stream", n=1 << 14, r=8, p=1, dklen=8
            ).hex()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _check(holds: bool, option: str, expected: str, config: PreprocessConfig) -> None:
    if not holds:
        flag = "--" + option.replace("_", "-")
        raise InputError(f"{flag}: expected {expected}; received {getattr(config, option)!r}")

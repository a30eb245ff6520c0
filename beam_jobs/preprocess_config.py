"""The options of a preprocessing job, checked when they are made."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from typing import Any, ClassVar, Literal, get_args

from beam_jobs.sources.columns import ROLES
from beam_jobs.sources.label_cells import MISSING, READERS, UNCERTAIN, Missing, Readers, Uncertain
from beam_jobs.sources.reading import Reading, compile_pattern
from cxr.errors import InputError
from cxr.kinds import Choice, Flag, Pairs, Parsed, Real, Several, Text, Whole, directory, file_path
from cxr.options import Options, option, options
from tfrecords.images.decode import DEFAULT_MAX_PIXELS
from tfrecords.images.scale import ScaleMode

Split = Literal["folder", "patient", "external"]
Labels = Literal["binary", "cause"]
Encoding = Literal["source", "png", "raw"]
RungEncoding = Literal["png", "raw"]
Duplicates = Literal["keep", "drop", "fail"]

NOT_IN_RESULT = (
    "input", "output", "images_root", "tfds_data_dir", "overwrite", "dry_run", "max_reject_fraction",
    "table", "rename_labels", "split_lists",
)  # fmt: skip
"""Options that change where and whether a data set is written, but not one byte of it, and names of files, of which
the fingerprint of the listing knows what was in them."""
TFDS_PREFIX = "tfds:"
_SOURCE, _LABELS, _DATA = "source", "labels, splits and patients of the source", "data set"
DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)
DEFAULT_VAL_FRACTION = 0.1


def _dataset_name(value: Any) -> str:
    if not isinstance(value, str) or re.fullmatch(r"[a-z][a-z0-9_]*", value) is None:
        raise ValueError(value)
    return value


@options
class PreprocessConfig(Options):
    """What to make a data set from, and how."""

    title: ClassVar[str] = "preprocessing configuration"

    input: str = option(
        Text("a folder, a .zip, a table or tfds:NAME", "SRC"),
        "folder, .zip or .tar of a known data set (see `cxr layouts`), of split/class/image or class/image files, or "
        "of images that a table names (--table); such a table itself; or tfds:NAME", group=_SOURCE,
    )  # fmt: skip
    output: str = option(directory(), "directory of the data set", group=_DATA)
    layout: str = option(
        Text("auto, none, a name that `cxr layouts` lists, or the path of a .toml file", "NAME"),
        "data set that the input is a download of; auto recognises those that `cxr layouts` lists", default="auto",
        group=_SOURCE,
    )  # fmt: skip
    table: tuple[str, ...] | None = option(
        Several(file_path(), 0),
        "csv, tsv, json, jsonl, parquet or xlsx table of the images, also in .gz or .zip; the rows of another one "
        "are added, or looked up by the columns that both have; none ignores those beside the images",
        default=None, group=_LABELS,
    )  # fmt: skip
    columns: dict[str, str] = option(
        Pairs("NAME=COLUMN", texts=True),
        f"what the columns are, where their names do not tell: {', '.join(ROLES)}; a path may be a template, such as "
        "path='p{subject:.2}/{image}.jpg'", default_factory=dict, group=_LABELS,
    )  # fmt: skip
    label_columns: tuple[str, ...] = option(
        Several(Text(), 0, distinct=True), "columns of one label each, with 1, 0, -1 (uncertain) or nothing",
        default=(), group=_LABELS,
    )  # fmt: skip
    label_separator: str | None = option(
        Text("the sign between labels", "SIGN", may_be_empty=True), "sign between the labels of a cell", default=None,
        unset="|", group=_LABELS,
    )  # fmt: skip
    label_pattern: str | None = option(
        Text("a regular expression with a group", "REGEX"),
        "where the path names the label: the group `label`, else the first one; a group `split` is the split. Files "
        "that it does not match are left out", default=None, group=_LABELS,
    )  # fmt: skip
    rename_labels: str | None = option(
        file_path(), "table of from,to: new names for labels; no new name removes one", default=None, group=_LABELS
    )
    where: tuple[str, ...] = option(
        Several(Text("COLUMN=VALUE, or another sign of != < <= > >=", "COND"), 0),
        "take only rows for which this holds, such as 'View=PA|AP'; may be given several times", default=(),
        repeated=True, group=_LABELS,
    )  # fmt: skip
    readers: Readers | None = option(
        Choice(READERS), "an image whose rows differ has a label if any, most or all of them say so", default=None,
        unset="such images are an error", group=_LABELS,
    )  # fmt: skip
    uncertain: Uncertain | None = option(
        Choice(UNCERTAIN), "what an uncertain label (-1) is", default=None,
        unset="ignore: unknown, the U-Ignore of Irvin et al. 2019", group=_LABELS,
    )  # fmt: skip
    missing: Missing | None = option(
        Choice(MISSING), "what a label is that is not mentioned (an empty cell)", default=None,
        unset="negative in --label-columns, as in Irvin et al. 2019; otherwise an error", group=_LABELS,
    )  # fmt: skip
    split_pattern: str | None = option(
        Text("a regular expression with a group", "REGEX"), "where the path names the split: the first group",
        default=None, group=_LABELS,
    )  # fmt: skip
    split_lists: dict[str, str] = option(
        Pairs("SPLIT=FILE", texts=True), "files that list the images of each split, one a line", default_factory=dict,
        group=_LABELS,
    )  # fmt: skip
    rename_splits: dict[str, str] = option(
        Pairs("OLD=NEW", texts=True),
        "what splits of other names are, such as tune=val",
        default_factory=dict,
        group=_LABELS,
    )
    partial: bool = option(Flag(), "files that a table names may be missing", default=False, group=_LABELS)
    split: Split | None = option(
        Choice(get_args(Split)), "take the source's splits, make new ones by patient, or make one split, test, of all "
        "images, to validate elsewhere", default=None, unset="folder where the source has splits", group=_DATA,
    )  # fmt: skip
    fractions: tuple[float, float, float] | None = option(
        Several(Real(0, 1), 3, 3), "of patients in train, val and test under --split patient, summing to 1",
        default=None, unset="0.8,0.1,0.1", group=_DATA,
    )  # fmt: skip
    val_fraction: float | None = option(
        Real(0, below=1),
        "share of training patients to carve out for validation where the source's own validation split is missing or "
        "holds less than half of that, which is then joined to train; 0 never carves; test is left alone",
        default=None, unset="0.1", group=_DATA,
    )  # fmt: skip
    labels: Labels = option(
        Choice(get_args(Labels)), "classes as the source names them, or normal / bacterial / viral", default="binary",
        group=_DATA,
    )  # fmt: skip
    classes: tuple[str, ...] | None = option(
        Several(Text(), 2, distinct=True), "label names in order", default=None, unset="those found, normal first",
        group=_DATA,
    )  # fmt: skip
    encoding: Encoding = option(
        Choice(get_args(Encoding)),
        "full images as their own verified JPEG or PNG file (else PNG), as PNG, or as plain pixels; the decoded pixels "
        "are the same", default="source", group=_DATA,
    )  # fmt: skip
    sizes: tuple[int, ...] = option(
        Several(Whole(8), 0, distinct=True), "smaller rungs, by short side in pixels, e.g. 512,256", default=(),
        group=_DATA,
    )  # fmt: skip
    rung_encoding: RungEncoding = option(
        Choice(get_args(RungEncoding)), "of the smaller rungs", default="raw", group=_DATA
    )
    shard_mb: float = option(
        Real(above=0, metavar="MB"), "size to aim at for a full-resolution shard, 2**20 bytes", default=128.0,
        group=_DATA,
    )  # fmt: skip
    scale: ScaleMode = option(
        Choice(get_args(ScaleMode)),
        "white of 16-bit images that do not state it: auto is the top of the fewest of 8, 10, 12, 14 or 16 bits that "
        "hold all, data that of exactly the bits in use, full that of 16 bits", default="auto", group=_DATA,
    )  # fmt: skip
    duplicates: Duplicates = option(
        Choice(get_args(Duplicates)), "what to do about images with equal pixels", default="keep", group=_DATA
    )
    max_reject_fraction: float = option(
        Real(0, 1), "share of images that may be unreadable before the job fails", default=0.0, group=_SOURCE
    )
    max_megapixels: float = option(
        Real(above=0, metavar="N"), "reject larger images undecoded, as decompression bombs",
        default=DEFAULT_MAX_PIXELS / 1e6, group=_SOURCE,
    )  # fmt: skip
    seed: int = option(Whole(), "seed of splits, order and shards", default=0, group=_DATA)
    name: str = option(
        # TFDS tells data set, split and shard number apart by these signs
        Parsed(_dataset_name, "lower-case letters, digits and _, a letter first", "NAME"),
        "first part of the shards' file names", default="cxr", group=_DATA,
    )  # fmt: skip
    patient_pattern: str | None = option(
        Text("a regular expression with a group", "REGEX"),
        "where the path names the patient: the first group, e.g. '(patient\\d+)/' (Kermany names are known)",
        default=None, group=_LABELS,
    )  # fmt: skip
    patient_salt: str | None = option(
        Text(may_be_empty=True), "secret that DICOM patient ids are hashed with", default=None, shown=False
    )
    images_root: str | None = option(
        directory(),
        "where the images are that a table as --input names",
        default=None,
        unset="its own folder",
        group=_SOURCE,
    )
    tfds_data_dir: str | None = option(
        directory(), "where TFDS keeps its data, for tfds:NAME", default=None, group=_SOURCE
    )
    dry_run: bool = option(
        Flag(), "show what the input is taken for, labels, splits and patients, and write nothing", default=False,
        group=_DATA,
    )  # fmt: skip
    overwrite: bool = option(
        Flag(), "replace the data set, or the unfinished job, that the output holds", default=False, group=_DATA
    )

    def check(self) -> None:
        fractions = self.fractions or (1,)
        if not math.isclose(sum(fractions), 1, abs_tol=1e-6) or not fractions[0]:
            raise InputError(f"fractions={fractions}: expected numbers that sum to 1, the first above 0")
        tfds = self.input.startswith(TFDS_PREFIX)
        for wrong, fault in (
            (self.fractions is not None and self.val_fraction is not None,
             "not both --fractions (new splits) and --val-fraction (the source's splits)"),
            (self.fractions is not None and self.split == "folder", "no --fractions with --split folder"),
            (self.val_fraction is not None and self.split == "patient",
             "no --val-fraction with --split patient; see --fractions"),
            (self.tfds_data_dir is not None and not tfds,
             f"--tfds-data-dir with an --input that begins with {TFDS_PREFIX} only; received --input {self.input}"),
            (self.images_root is not None and tfds, "--images-root with a table as --input only"),
            (self.classes is not None and self.labels == "cause", "no --classes with --labels cause"),
        ):  # fmt: skip
            if wrong:
                raise InputError(f"the options do not go together: expected {fault}")
        for flag in ("label", "split", "patient"):
            pattern = getattr(self, f"{flag}_pattern")
            if pattern is not None:
                compile_pattern(pattern, f"--{flag}-pattern")

    @property
    def reading(self) -> Reading:
        """How to read the source."""
        names = {field.name for field in dataclasses.fields(Reading)}
        given = {name: value for name, value in vars(self).items() if name in names and value is not None}
        return Reading(**given, new_splits=self.split in ("patient", "external"))

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
            secret = self.patient_salt.encode()
            options["patient_salt"] = hashlib.scrypt(secret, salt=b"cxr-stream", n=1 << 14, r=8, p=1, dklen=8).hex()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}

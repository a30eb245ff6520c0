"""How the files of a data set are named and where they lie.

DIR/manifest.json           written last: a directory without it is not a data set
DIR/audit.json, audit.html  findings of the audit, for programs and as a page
DIR/rejects.jsonl           one line for each image that is not in the data set, with the reason
DIR/full/  DIR/512/ ...     one folder for each rung: TFDS metadata, the shards, and an index beside each shard
"""

from __future__ import annotations

import re
from pathlib import Path

MANIFEST_NAME = "manifest.json"
AUDIT_NAME = "audit.json"
AUDIT_PAGE_NAME = "audit.html"
REJECTS_NAME = "rejects.jsonl"
FULL_RUNG = "full"

_SHARD = re.compile(r"(?P<name>.+)-(?P<split>\w+)\.(?P<kind>tfrecord|index)-(?P<index>[0-9]{5})-of-(?P<count>[0-9]{5})")


def shard_name(dataset: str, split: str, index: int, count: int) -> str:
    """File name of shard `index` (from 0) of `count`, as TFDS expects it."""
    if not 0 <= index < count <= 99_999:
        raise ValueError(f"shard index {index} of {count}: expected 0 <= index < count <= 99999")
    return f"{dataset}-{split}.tfrecord-{index:05d}-of-{count:05d}"


def is_shard_name(name: str, kind: str = "tfrecord") -> bool:
    """Whether a file name is one that `shard_name` gives, or that of its index where the kind is `index`."""
    match = _SHARD.fullmatch(name)
    return match is not None and match["kind"] == kind and int(match["index"]) < int(match["count"])


def index_path(shard: Path) -> Path:
    """Where the index of a shard lies: beside it, under a name that TFDS does not take for a shard."""
    name, numbers = shard.name.rsplit(".tfrecord-", 1)
    return shard.with_name(f"{name}.index-{numbers}")


def rung_name(size: int | None) -> str:
    """Folder of a rung: `full`, or the length of its short side in pixels."""
    return FULL_RUNG if size is None else str(size)


def is_rung_name(name: str) -> bool:
    """Whether a folder name is one that `rung_name` gives."""
    return name == FULL_RUNG or (name.isascii() and name.isdecimal())


def shard_path(root: Path, rung: str, dataset: str, split: str, index: int, count: int) -> Path:
    """Path of one shard of a data set at `root`."""
    return root / rung / shard_name(dataset, split, index, count)

"""Images with equal pixels: which may be equal, and which of them stay."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import NamedTuple

from beam_jobs.planning.headers import IndexRow
from beam_jobs.planning.plan import split_order
from beam_jobs.preprocess_config import Duplicates
from cxr.errors import InputError

_SHOWN = 5


class Deduplicated(NamedTuple):
    """Rows without duplicates, and what was left out, as (path, reason)."""

    rows: list[IndexRow]
    dropped: list[tuple[str, str]]
    undecodable: list[tuple[str, str]]


def find_candidates(rows: Sequence[IndexRow]) -> list[IndexRow]:
    """Rows whose pixels may equal another's: only images of equal size can, so only those have to be decoded."""
    counts = collections.Counter(_upright_size(row) for row in rows)
    return [row for row in rows if counts[_upright_size(row)] > 1]


def resolve_duplicates(rows: Sequence[IndexRow], hashed: Sequence[IndexRow], how: Duplicates) -> Deduplicated:
    """Fails, or drops all but one, where pixels are equal.

    Args:
      rows: all images.
      hashed: the candidates among them with the hashes of their pixels, or the reason why they cannot be decoded.
      how: `fail` or `drop`.

    Raises:
      InputError: there are duplicates and `how` is `fail`; or some of equal pixels have different labels.
    """
    undecodable = [(row.image.path, row.reject) for row in hashed if row.reject]
    groups: dict[str, list[IndexRow]] = collections.defaultdict(list)
    for row in hashed:
        if row.pixel_hash:
            groups[row.pixel_hash].append(row)
    repeated = [sorted(group, key=_keep_order) for group in groups.values() if len(group) > 1]
    if repeated and how == "fail":
        shown = "; ".join(" = ".join(row.image.path for row in group) for group in repeated[:_SHOWN])
        raise InputError(
            f"--duplicates fail: {sum(len(group) - 1 for group in repeated)} images repeat the pixels of another: "
            f"{shown}. Remove them from the source, or use --duplicates drop."
        )
    dropped = []
    for group in repeated:
        labels = {row.image.labels for row in group}
        if len(labels) > 1:
            raise InputError(
                f"--duplicates drop: {' and '.join(row.image.path for row in group)} have equal pixels and different "
                f"labels ({', '.join('|'.join(names) for names in sorted(labels))}), so it is unknown which to keep. "
                "Remove the wrong one from the source, or use --duplicates keep."
            )
        dropped += [(row.image.path, f"the same pixels as {group[0].image.path}") for row in group[1:]]
    gone = {path for path, _ in (*dropped, *undecodable)}
    return Deduplicated([row for row in rows if row.image.path not in gone], dropped, undecodable)


def _upright_size(row: IndexRow) -> tuple[int, int]:
    if row.header is None:
        return (0, 0)
    width, height = row.header.width, row.header.height
    return (height, width) if row.header.orientation >= 5 else (width, height)


def _keep_order(row: IndexRow) -> tuple[int, str]:
    """Of equal images, the one in test stays before val before train, so that no test set shrinks."""
    return (-split_order(row.image.split or "train")[0], row.image.path)

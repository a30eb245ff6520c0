"""What stops a job before, or instead of, writing a data set: too many rejects, an empty split, a full disk."""

from __future__ import annotations

import collections
import math
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from beam_jobs.execution.shard_writer import ShardResult, ShardSettings
from beam_jobs.planning.plan import Plan, PlannedImage, ShardPlan
from beam_jobs.preprocess_config import PreprocessConfig
from cxr.console import format_bytes
from cxr.errors import InputError, OutputError

_SHOWN = 5


def check_rejects(
    rejects: Sequence[tuple[str, str | None]], total: int, config: PreprocessConfig, note: str = ""
) -> None:
    """Raises InputError where more images cannot be used than the options allow.

    Args:
      rejects: (path, reason) of images, of `total` in the source, that cannot be used.
      config: of the job.
      note: what to say before how to mend it.
    """
    share = len(rejects) / total
    if len(rejects) == total:
        first, why = rejects[0]
        raise InputError(f"none of the {total} images of {config.input} can be read; the first: {first}: {why}")
    if share > config.max_reject_fraction:
        worst = first_few([f"{path}: {reason}" for path, reason in sorted(rejects)])
        needed = math.ceil(share * 10_000) / 10_000
        raise InputError(
            f"{len(rejects)} of {total} images cannot be used ({share:.2%}), more than --max-reject-fraction "
            f"{config.max_reject_fraction:g} allows:{worst}\n"
            f"{note}fix or remove these images, or continue without them: --max-reject-fraction {needed:g}"
        )


def check_written(plan: Plan, results: Sequence[ShardResult]) -> None:
    """Raises InputError where a split has no image that could be used."""
    written: collections.Counter[str] = collections.Counter()
    for shard, result in zip(plan.shards, results, strict=True):
        written[shard.split] += len(result.images)
    empty = [split for split, count in written.items() if not count]
    if empty:
        raise InputError(f"the split '{empty[0]}' would be empty: none of its images can be decoded; fix them")


def check_disk(output: Path, shards: Iterable[ShardPlan], settings: ShardSettings) -> None:
    """Raises OutputError where shards cannot fit on the disk, before they have filled it."""
    needed = sum(_estimate_bytes(image, settings) for shard in shards for image in shard.images)
    free = shutil.disk_usage(output).free
    if needed > free:
        raise OutputError(
            f"the disk is too full: the data set needs about {format_bytes(needed)} and {output} has "
            f"{format_bytes(free)} free. Free some space, choose another --output, or fewer --sizes."
        )


def _estimate_bytes(image: PlannedImage, settings: ShardSettings) -> int:
    depth = settings.bit_depth // 8
    # a rung's long side is not known here; a chest X-ray is at most about 1.5 times as wide as high
    return image.bytes + sum(min(image.pixels, round(1.5 * size * size)) * depth for size in settings.sizes)


def first_few(lines: Sequence[str], more: str = "more") -> str:
    """The first five lines, each indented and after a line break, and how many more there are."""
    left = [f"and {len(lines) - _SHOWN} {more}"] if len(lines) > _SHOWN else []
    return "".join(f"\n  {line}" for line in [*lines[:_SHOWN], *left])

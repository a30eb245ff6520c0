"""What a job did, for the closing report, the logs and whoever calls it."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfrecords.format.manifest import Manifest


@dataclasses.dataclass(frozen=True)
class JobSummary:
    """What a job did.

    Attributes:
      manifest: of the data set.
      audit: what was found, see `beam_jobs.results.audit`.
      rejects: (path, reason) of images that are not in the data set.
      seconds: that the job took.
      written_images: images that this run wrote.
      kept_shards: shards that an earlier, interrupted run had finished.
      already_complete: the output held this very data set; nothing was done.
      logged: there are TensorBoard logs of this run.
    """

    manifest: Manifest
    audit: dict[str, Any]
    rejects: tuple[tuple[str, str], ...]
    seconds: float = 0.0
    written_images: int = 0
    kept_shards: int = 0
    already_complete: bool = False
    logged: bool = False

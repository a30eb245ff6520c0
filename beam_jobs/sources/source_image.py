"""What an input says of one image."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class SourceImage:
    """One image as the source names it.

    Attributes:
      path: relative to the source, with forward slashes; unique in the source.
      bytes: size of the file.
      modified: stamp that a change of the file changes, see `files.Entry`.
      labels: names of the labels that it has; exactly one, except in a multi-label data set.
      split: `train`, `val`, `test`, or another name; None where the source has no splits.
      patient: patient key, where the source states it.
      cause: cause of the finding, where the source states it.
      unknown: names of labels of which it is not known whether the image has them.
      view: projection, where the source states it; so for the rest.
      age: in years.
      sex: `F`, `M` or another sign.
      site: hospital.
    """

    path: str
    bytes: int
    modified: int
    labels: tuple[str, ...]
    split: str | None = None
    patient: str | None = None
    cause: str | None = None
    unknown: tuple[str, ...] = ()
    view: str = ""
    age: str = ""
    sex: str = ""
    site: str = ""

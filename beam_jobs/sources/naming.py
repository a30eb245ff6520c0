"""What the file names of public data sets say: the patient and the cause of a finding.

Kermany et al.: `person12_bacteria_47.jpeg`, `IM-0115-0001.jpeg`, `NORMAL2-IM-0927-0001.jpeg`. The number
restarts for each cause, so the cause is part of the patient key; so is the prefix of an IM number.

NIH ChestX-ray14: `00007007_004.png`, the patient and the number of the follow-up.
"""

from __future__ import annotations

import re

_PERSON = re.compile(r"(person\d+)_(bacteria|virus)(?:_\d+)+")
_NIH = re.compile(r"(000\d{5})_\d{3}")
_IM = re.compile(r"((?:[A-Z0-9]+-)?IM-\d+)(?:-\d+)*")

CAUSE_LABELS = ("normal", "bacterial", "viral")
"""Label names of `--labels cause`, and so their indices."""

_CAUSES = {
    "normal": "normal",
    "bacteria": "bacterial", "bacterial": "bacterial",
    "virus": "viral", "viral": "viral",
}  # fmt: skip


def kermany_patient(path: str, normal: bool) -> str | None:
    """The patient key in a Kermany file name, or None where the name is not of that form.

    Args:
      path: of the image.
      normal: the image is labelled normal. Only such images are named `IM-...` in that data set; elsewhere
        it is what viewers call every exported image, and says nothing of the patient.
    """
    stem = _stem(path)
    if match := _PERSON.fullmatch(stem):
        return f"{match[1]}_{match[2]}"
    match = _IM.fullmatch(stem)
    return match[1] if match and normal else None


def nih_patient(path: str) -> str | None:
    """The patient key in a file name of NIH ChestX-ray14, or None where the name is not of that form."""
    match = _NIH.fullmatch(_stem(path))
    return match[1] if match else None


def kermany_cause(path: str) -> str | None:
    """`bacterial` or `viral`, or None where the name is not that of a Kermany pneumonia."""
    match = _PERSON.fullmatch(_stem(path))
    return _CAUSES[match[2]] if match else None


def normalise_cause(cause: str | None) -> str | None:
    """One of `CAUSE_LABELS` for the spellings in use, otherwise the text as it is."""
    return _CAUSES.get(cause.lower(), cause) if cause else None


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0]

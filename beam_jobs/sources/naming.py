"""What the file names of a public data set say: the patient and the cause of a finding.

Kermany et al.: `person12_bacteria_47.jpeg`, `IM-0115-0001.jpeg`, `NORMAL2-IM-0927-0001.jpeg`. The number
restarts for each cause, so the cause is part of the patient key; so is the prefix of an IM number.
"""

from __future__ import annotations

import re

from cxr.errors import InputError

_PERSON = re.compile(r"(person\d+)_(bacteria|virus)(?:_\d+)+")
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


def kermany_cause(path: str) -> str | None:
    """`bacterial` or `viral`, or None where the name is not that of a Kermany pneumonia."""
    match = _PERSON.fullmatch(_stem(path))
    return _CAUSES[match[2]] if match else None


def normalise_cause(cause: str | None) -> str | None:
    """One of `CAUSE_LABELS` for the spellings in use, otherwise the text as it is."""
    return _CAUSES.get(cause.lower(), cause) if cause else None


def compile_patient_pattern(pattern: str) -> re.Pattern[str]:
    """Checks a `--patient-pattern`: a regular expression over the path, whose first group is the patient.

    Raises:
      InputError: not a regular expression, or without a group.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--patient-pattern {pattern!r} is not a regular expression: {error}") from error
    if not compiled.groups:
        raise InputError(f"--patient-pattern {pattern!r} has no group; put the patient's part in parentheses")
    return compiled


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0]

"""Names of labels: which of them mean that nothing was found."""

from __future__ import annotations

NORMAL_NAMES = frozenset(("normal", "negative", "healthy", "no finding", "no_finding", "no", "none", "control", "0"))
"""Names, in lower case, of the label that means nothing was found."""


def is_normal(label: str) -> bool:
    """Whether a label is named like one that means nothing was found."""
    return label.lower() in NORMAL_NAMES

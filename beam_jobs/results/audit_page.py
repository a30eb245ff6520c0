"""The audit as a page, `audit.html`, whose bytes are a function of the audit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beam_jobs.results.audit import WARN_AUC, most_telling
from cxr.page import Cell, number, render

_SHOWN = 200
"""Rows of duplicates and of patients; audit.json has them all."""


def audit_page(name: str, audit: Mapping[str, Any]) -> str:
    """The page of a data set; `audit` is as audit.json has it."""
    balance: Mapping[str, Any] = audit["balance"]
    labels = next(iter(balance.values()))["labels"] if balance else ()
    return render(
        Path(__file__).with_name("audit.html"),
        f"Audit of {name}",
        "Properties of the data set that make results look better than they are.",
        audit=audit,
        warn_auc=WARN_AUC,
        balance={
            "head": ["split", "images", *labels],
            "rows": [_balance(split, found) for split, found in balance.items()],
        },
        label_from_encoding=[_encoding(f"label '{name}'", one) for name, one in audit["label_from_encoding"].items()],
        split_from_encoding=[
            _encoding(f"'{name}' against 'train'", one) for name, one in audit["split_from_encoding"].items()
        ],
        duplicates=[
            [", ".join(group[key]) for key in ("splits", "labels", "patients", "paths")]
            for group in audit["duplicates"]["groups"][:_SHOWN]
        ],
        patients=[
            [found["patient"], ", ".join(f"{count} in {split}" for split, count in found["images"].items())]
            for found in audit["patients_across_splits"][:_SHOWN]
        ],
    )


def _balance(split: str, found: Mapping[str, Any]) -> list[Any]:
    shares = found["shares"]
    return [split, found["images"], *(Cell(str(n), f"{shares[label]:.1%}") for label, n in found["labels"].items())]


def _encoding(name: str, result: dict[str, Any]) -> list[Any]:
    if "auc" not in result:
        return [name, "-", "-", f"not measured: {result['skipped']}"]
    auc = Cell(number(result["auc"]), kind="bad" * (result["auc"] > WARN_AUC))
    return [name, auc, result["images"], most_telling(result)]

"""The audit as a page, `audit.html`, whose bytes are a function of the audit, the rejects and the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beam_jobs.results.audit import WARN_AUC, WARN_RING_AUC, most_telling
from beam_jobs.results.audit_pictures import CLASSES, AuditPictures, Shown
from cxr.page import Captioned, Cell, number, picture, render

_SHOWN = 200
"""Rows of duplicates, patients and rejects; audit.json and rejects.jsonl have them all."""


def audit_page(
    name: str, audit: Mapping[str, Any], rejects: Sequence[Mapping[str, str]], pictures: AuditPictures
) -> str:
    """The page of a data set.

    Args:
      name: of the data set.
      audit: as audit.json has it.
      rejects: `path`, `kind` and `reason` of images that were left out, as rejects.jsonl has them.
      pictures: to show.
    """
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
        warn_ring_auc=WARN_RING_AUC,
        label_from_outer_ring=[_ring(f"label '{name}'", one) for name, one in audit["label_from_outer_ring"].items()],
        rings={label: [_captioned(shown) for shown in row] for label, row in pictures.rings.items()},
        examples={
            split: {label: [_captioned(shown) for shown in row] for label, row in of_label.items()}
            for split, of_label in pictures.examples.items()
        },
        duplicate_pictures=[[_captioned(shown) for shown in group] for group in pictures.duplicates],
        most_classes=CLASSES,
        rejects=[[row["path"], row["kind"], row["reason"]] for row in rejects[:_SHOWN]],
        rejected=len(rejects),
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


def _ring(name: str, result: dict[str, Any]) -> list[Any]:
    if "auc" not in result:
        return [name, "-", "-", f"not measured: {result['skipped']}"]
    return [name, Cell(number(result["auc"]), kind="bad" * (result["auc"] >= WARN_RING_AUC)), result["images"], ""]


def _captioned(shown: Shown) -> Captioned:
    return Captioned(picture(shown.pixels, ", ".join(shown.caption)), shown.caption)

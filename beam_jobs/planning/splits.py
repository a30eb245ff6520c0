"""New splits: by patient, with the same share of every label, exact to the patient.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data", 2011) over
patients: the label with the fewest patients left is dealt out first, by quotas of whole patients (largest remainder).
Each of its patients goes to the split, of those with a place left, that lacks most of all the patient's labels.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Collection, Mapping

_NO_LABEL = -1
"""Stands for the label of patients that have none."""


def hash_fraction(*parts: object) -> float:
    """A number in [0, 1) that is a stable, evenly spread function of `parts`."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def deal_patients(labels: Mapping[str, Collection[int]], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """The split of each patient.

    Every split gets its share of the patients of every label, rounded to whole patients, and at least one patient of
    each label that has as many patients as there are splits.

    Args:
      labels: of each patient's images together, indices by patient.
      fractions: of patients by split, summing to 1; splits of 0 get none.
      seed: of the order in which patients are dealt out.
    """
    shares = {split: share for split, share in fractions.items() if share}
    strata = {patient: tuple(found) or (_NO_LABEL,) for patient, found in labels.items()}
    order = sorted(strata, key=lambda patient: (hash_fraction(seed, "split", patient), patient))
    of_label: dict[int, list[str]] = collections.defaultdict(list)
    for patient in order:
        for label in strata[patient]:
            of_label[label].append(patient)
    places = _quotas({label: len(patients) for label, patients in of_label.items()}, shares)
    scale = {label: {split: max(1, count) for split, count in quota.items()} for label, quota in places.items()}
    splits: dict[str, str] = {}
    waiting = {label: len(patients) for label, patients in of_label.items()}
    while waiting:
        label = min(waiting, key=lambda label: (waiting[label], label))
        del waiting[label]
        for patient in of_label[label]:
            if patient in splits:
                continue
            own = strata[patient]
            free = [split for split in shares if places[label][split] > 0] or list(shares)
            splits[patient] = split = max(
                free, key=lambda split: sum(places[one][split] / scale[one][split] for one in own)
            )
            for one in own:
                places[one][split] -= 1
                if one in waiting:
                    waiting[one] -= 1
    return splits


def _quotas(patients: Mapping[int, int], shares: Mapping[str, float]) -> dict[int, dict[str, int]]:
    """How many patients of each label each split is to get.

    The shares rounded by largest remainder, where what a split was given too little by one label counts for the next;
    each split gets one where there are as many patients as splits.
    """
    largest = max(shares, key=lambda split: shares[split])
    owed = dict.fromkeys(shares, 0.0)
    quotas = {}
    for label in sorted(patients, key=lambda label: (patients[label], label)):
        count = patients[label]
        wanted = {split: share * count for split, share in shares.items()}
        quota = {split: int(want + 1e-9) for split, want in wanted.items()}
        by_need = sorted(shares, key=lambda split: wanted[split] - quota[split] + owed[split], reverse=True)
        for split in by_need[: count - sum(quota.values())]:
            quota[split] += 1
        for split in [split for split in shares if not quota[split] and count >= len(shares)]:
            quota[split] += 1
            quota[largest] -= 1
        owed = {split: owed[split] + wanted[split] - quota[split] for split in shares}
        quotas[label] = quota
    return quotas

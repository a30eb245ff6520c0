"""New splits, exact to the patient."""

from __future__ import annotations

import collections
import random

import pytest

from beam_jobs.planning.splits import deal_patients

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


def counted(splits: dict[str, str], labels: dict[str, tuple[int, ...]], label: int) -> dict[str, int]:
    return dict(collections.Counter(splits[patient] for patient, found in labels.items() if label in found))


def patients(*counts: int) -> dict[str, tuple[int, ...]]:
    return {f"{label}-{number}": (label,) for label, count in enumerate(counts) for number in range(count)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("count", "expected"),
    [(100, (80, 10, 10)), (1000, (800, 100, 100)), (10, (8, 1, 1)), (3, (1, 1, 1)), (5, (3, 1, 1)), (20, (16, 2, 2))],
)
def test_each_label_is_split_exactly(seed: int, count: int, expected: tuple[int, ...]):
    labels = patients(count, 50)
    splits = deal_patients(labels, FRACTIONS, seed)
    assert counted(splits, labels, 0) == dict(zip(FRACTIONS, expected, strict=True))
    assert counted(splits, labels, 1) == {"train": 40, "val": 5, "test": 5}


@pytest.mark.parametrize("counts", [(1349, 3883), (33, 17, 9, 4), (7, 7, 7, 7, 7, 7, 7)])
def test_rounding_is_to_the_patient_and_the_sum_is_right(counts: tuple[int, ...]):
    labels = patients(*counts)
    splits = deal_patients(labels, FRACTIONS, 3)
    for label, count in enumerate(counts):
        found = counted(splits, labels, label)
        for split, fraction in FRACTIONS.items():
            wanted = max(1.0, fraction * count) if split != "train" else count - sum(max(1, 0.1 * count) for _ in "vt")
            assert abs(found[split] - wanted) < 1
    if all(count >= 10 for count in counts):
        total = collections.Counter(splits.values())
        assert all(abs(total[split] - fraction * len(labels)) < 1 for split, fraction in FRACTIONS.items())


def test_several_labels_a_patient():
    """Every split gets its share of each of 14 labels, the rare ones too, to a few patients."""
    chance = random.Random(1)
    rates = [0.02 + 0.04 * label for label in range(14)]
    labels = {f"p{n}": tuple(label for label, rate in enumerate(rates) if chance.random() < rate) for n in range(2000)}
    splits = deal_patients(labels, FRACTIONS, 0)
    assert set(splits) == set(labels)
    for label in range(14):
        found, count = counted(splits, labels, label), sum(label in one for one in labels.values())
        for split, fraction in FRACTIONS.items():
            assert abs(found[split] - fraction * count) <= 2, (label, split)


def test_another_seed_deals_others_out_and_order_does_not_matter():
    labels = patients(60, 40)
    one, two = (deal_patients(labels, FRACTIONS, seed) for seed in (0, 1))
    assert one != two
    assert deal_patients(dict(reversed(labels.items())), FRACTIONS, 0) == one


def test_a_split_of_nothing_and_fewer_patients_than_splits():
    labels = patients(40)
    assert collections.Counter(deal_patients(labels, {"train": 0.75, "val": 0.0, "test": 0.25}, 0).values()) == {
        "train": 30, "test": 10
    }  # fmt: skip
    assert set(deal_patients(patients(2), FRACTIONS, 0).values()) == {"train"}

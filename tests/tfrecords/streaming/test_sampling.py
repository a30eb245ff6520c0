"""The laws of the order of a stream, each held over hundreds of drawn splits and options."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cxr.errors import InputError
from tfrecords.streaming.sampling import Plan
from tfrecords.streaming.split_index import SplitIndex
from tfrecords.streaming.stream_options import StreamOptions

MB = 1 << 20
PLAIN = {"balanced": False, "drop_remainder": False}


def index_of(shard, length=None, label=None) -> SplitIndex:
    """A split whose records lie in the given shards; each takes a megabyte and has label 0 unless said otherwise."""
    shard = np.asarray(shard, np.int32)
    count = len(shard)
    length = np.full(count, MB) if length is None else np.asarray(length)
    label = np.zeros(count) if label is None else np.asarray(label)
    return SplitIndex(
        paths=tuple(Path(f"shard{number}") for number in range(int(shard.max()) + 1)),
        shards=(),
        faults=(),
        lost=0,
        shard=shard,
        number=np.array([int((shard[:row] == shard[row]).sum()) for row in range(count)], np.int32),
        offset=np.cumsum(length).astype(np.int64),
        length=length.astype(np.int64),
        crc=np.zeros(count, np.uint32),
        image=np.zeros((count, 2), np.int64),
        encoding=np.zeros(count, np.uint8),
        shape=np.ones((count, 3), np.int32),
        label=label.astype(np.int32),
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """A drawn split and drawn options; `repr` says what is needed to see a failure again."""

    number: int
    index: SplitIndex = dataclasses.field(repr=False)
    options: StreamOptions
    records: int
    shards: int

    def plan(self, bucket: np.ndarray | None = None, **changes) -> Plan:
        return Plan(self.index, dataclasses.replace(self.options, **changes), bucket)


def cases(count: int, **fixed) -> Iterator[Case]:
    """Splits of 1 to 200 records in 1 to 12 shards, some of equal shards and some with empty ones, and options.

    Where dropping the remainder would leave no batch, the refusal is checked and the case left out.
    """
    for number in range(count):
        rng = np.random.default_rng([20, number])
        records, shards = int(rng.integers(1, 201)), int(rng.integers(1, 13))
        if rng.random() < 0.5:
            shard = np.arange(records) * shards // records
        else:
            shard = np.sort(rng.integers(0, shards, records))
        labels = rng.integers(0, int(rng.integers(1, 5)), records)
        if rng.random() < 0.5:
            labels = np.minimum(labels, rng.integers(0, 2, records) * labels)  # class 0 is the commonest
        index = index_of(shard, rng.integers(MB // 4, 2 * MB, records), labels)
        training = bool(rng.random() < 0.7)
        drawn = {
            "batch_size": int(rng.integers(1, 18)),
            "training": training,
            "seed": int(rng.integers(0, 2**40)),
            "shuffle_mb": int(rng.choice([1, 3, 10, 40, 2048])),
            "balanced": training and bool(rng.random() < 0.3),
            "drop_remainder": bool(rng.random() < 0.3),
        }
        case = Case(number, index, StreamOptions("train", **(drawn | fixed)), records, shards)
        if case.options.drop_remainder and records < case.options.batch_size:
            with pytest.raises(InputError, match="drop_remainder=True leaves no batch"):
                case.plan()
        else:
            yield case


def batches_of(size: int, **options) -> StreamOptions:
    return StreamOptions("train", batch_size=size, **options)


def epoch(plan: Plan, number: int) -> list[list[int]]:
    """The batches of an epoch."""
    begin = number * plan.steps_per_epoch
    return [plan.batch(step).tolist() for step in range(begin, begin + plan.steps_per_epoch)]


def flat(batches: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


GOLDEN = {
    "epoch 0": ({}, 0, [[10, 3, 5, 4, 7], [8, 11, 1, 2, 9], [6, 0]]),
    "epoch 1": ({}, 1, [[0, 3, 11, 5, 1], [9, 7, 8, 4, 2], [10, 6]]),
    "windows": ({"shuffle_mb": 3}, 0, [[7, 8, 10, 11, 9], [5, 4, 6, 1, 2], [0, 3]]),
    "balanced": ({"balanced": True}, 0, [[10, 3, 5, 5, 8], [9, 11, 2, 3, 10], [6, 1]]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_order(name):
    """A literal order: whoever changes the algorithm breaks every run that is to be resumed, and should know."""
    index = index_of([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2], label=[0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0])
    options, number, expected = GOLDEN[name]
    assert epoch(Plan(index, batches_of(5, training=True, seed=7, **options)), number) == expected


def test_two_plans_are_equal_and_any_step_can_come_first():
    steps = 0
    for case in cases(300):
        resumed = case.plan()
        whole = [resumed.batch(step).tolist() for step in range(3 * resumed.steps_per_epoch)]
        rng = np.random.default_rng(case.number)
        for step in {0, len(whole) - 1, *rng.integers(0, len(whole), 6).tolist()}:
            stopped = case.plan()
            assert [stopped.batch(later).tolist() for later in range(step, min(step + 4, len(whole)))] == whole[
                step : step + 4
            ], (case, step)
            steps += 1
        backwards = case.plan()
        assert [backwards.batch(step).tolist() for step in reversed(range(len(whole)))] == whole[::-1], case
    assert steps > 1000


def test_every_example_is_used_once_an_epoch():
    for case in [*cases(150, **PLAIN), *cases(50, **PLAIN, batch_size=1)]:
        plan = case.plan()
        for number in (0, 1, 5):
            assert sorted(flat(epoch(plan, number))) == list(range(case.records)), (case, number)


def test_batches_are_full_but_for_the_last():
    partial = 0
    for case in cases(400):
        size, drop, plan = case.options.batch_size, case.options.drop_remainder, case.plan()
        lengths = [len(batch) for batch in epoch(plan, 1)]
        rest = [] if drop or not case.records % size else [case.records % size]
        assert lengths == [size] * (case.records // size) + rest, case
        assert plan.uniform == (set(lengths) == {size}), case
        partial += bool(rest)
    assert partial > 100


def test_a_dropped_remainder_is_another_one_in_each_epoch():
    plan = Plan(index_of(np.arange(23) // 8), batches_of(5, training=True, drop_remainder=True))
    left_out = [set(range(23)) - set(flat(epoch(plan, number))) for number in range(30)]
    assert {len(rows) for rows in left_out} == {3}
    assert set().union(*left_out) == set(range(23))


def test_evaluation_is_in_stored_order_whatever_seed_and_windows():
    for case in cases(300, **PLAIN, training=False):
        assert flat(epoch(case.plan(), 0)) == list(range(case.records)), case
        assert epoch(case.plan(seed=1, shuffle_mb=1), 0) == epoch(case.plan(seed=2, shuffle_mb=999), 3), case


def test_epochs_and_seeds_differ():
    compared = 0
    for case in cases(300, training=True):
        if case.records < max(15, 2 * case.shards):
            continue
        # windows that hold several records, so that chance alone seldom repeats an order
        plan = case.plan(shuffle_mb=40)
        orders = [epoch(plan, number) for number in range(6)]
        orders += [epoch(case.plan(shuffle_mb=40, seed=seed), 0) for seed in (1, 2, 2**32 + 1, 2**70)]
        assert len({str(order) for order in orders}) == len(orders), case
        compared += 1
    assert compared > 100


def walk_of(case: Case, number: int) -> list[int]:
    """The rows in the order in which they are read: windows of one record each shuffle nothing."""
    whole = dataclasses.replace(case.index, length=np.full(case.records, MB))
    options = dataclasses.replace(case.options, shuffle_mb=1, **PLAIN)
    return flat(epoch(Plan(whole, options), number))


def test_shards_are_read_one_after_another_in_an_order_that_changes():
    changed = 0
    for case in cases(200, training=True):
        orders = set()
        for number in range(4):
            walk = walk_of(case, number)
            shards = [shard for shard, _ in itertools.groupby(case.index.shard[walk].tolist())]
            assert len(shards) == len(set(shards)), (case, "a shard is left and read again")
            for shard in shards:
                rows = [row for row in walk if case.index.shard[row] == shard]
                assert rows == sorted(rows), case
            orders.add(tuple(shards))
        changed += len(orders) > 1
    assert changed > 100


@pytest.mark.parametrize("balanced", [False, True])
def test_a_record_is_never_used_outside_its_window(balanced):
    several = moved = 0
    for case in cases(250, training=True, balanced=balanced, drop_remainder=False):
        limit = case.options.shuffle_mb * MB
        plan = case.plan()
        for number in (0, 3):
            order = flat(epoch(plan, number))
            place = {row: at for at, row in enumerate(walk_of(case, number))}
            walk = sorted(order, key=place.__getitem__)
            window = (np.cumsum(case.index.length[walk]) // limit).tolist()
            begin = 0
            for _, members in itertools.groupby(window):
                end = begin + len(list(members))
                assert sorted(order[begin:end]) == sorted(walk[begin:end]), (case, number, begin, end)
                assert case.index.length[walk[begin:end]].sum() < limit + 2 * MB, case
                several += end - begin > 1
                moved += order[begin:end] != walk[begin:end]
                begin = end
            assert begin == len(order)
    assert several > 500
    assert moved > 0.6 * several  # a window may be in stored order by chance, or hold repeats of one record


def test_within_its_window_a_record_may_come_at_any_place():
    """Chi-square over 3,000 epochs of 12 records in one window, 11 x 11 degrees of freedom: 99.99 % lie below 186."""
    plan = Plan(index_of(np.arange(12) // 4), batches_of(12, training=True, seed=5))
    times = np.zeros((12, 12))
    epochs = 3000
    for number in range(epochs):
        times[np.arange(12), plan.batch(number)] += 1
    assert ((times - epochs / 12) ** 2 / (epochs / 12)).sum() < 186


def test_balanced_classes_have_equal_shares_and_examples_equal_turns():
    unlike = 0
    for case in cases(200, training=True, balanced=True, drop_remainder=False):
        plan, labels = case.plan(), case.index.label
        times = np.zeros(case.records, int)
        stored = np.bincount(labels)
        present = stored > 0
        for number in range(7):
            rows = flat(epoch(plan, number))
            assert len(rows) == case.records, case
            shares = np.bincount(labels[rows], minlength=len(stored))
            assert not shares[~present].any(), case
            assert np.ptp(shares[present]) <= 1, (case, number, shares)
            np.add.at(times, rows, 1)
            for label in np.flatnonzero(present):
                assert np.ptp(times[labels == label]) <= 1, (case, number, label)
        unlike += stored.max() > 2 * stored[present].min()
    assert unlike > 50


@pytest.mark.parametrize("training", [False, True])
def test_batches_of_one_bucket_each_use_every_example_once(training):
    dropped = mixed = 0
    for case in cases(300, training=training, balanced=False):
        size, drop = case.options.batch_size, case.options.drop_remainder
        bucket = np.random.default_rng(case.number).integers(0, 5, case.records)
        counts = np.bincount(bucket, minlength=5)
        if drop and max(counts) < size:
            with pytest.raises(InputError, match="drop_remainder=True leaves no batch"):
                case.plan(bucket)
            continue
        plan = case.plan(bucket)
        batches = epoch(plan, 1)
        lengths = [len(batch) for batch in batches]
        assert all(len(set(bucket[batch].tolist())) == 1 for batch in batches), case
        assert plan.uniform == (set(lengths) == {size}), case
        assert len(set(flat(batches))) == len(flat(batches)), case
        np.testing.assert_array_equal(
            np.bincount(bucket[flat(batches)], minlength=5), counts // size * size if drop else counts
        )
        of_bucket = [int(bucket[batch[0]]) for batch in batches]
        for one in set(of_bucket):
            sizes = [length for length, other in zip(lengths, of_bucket, strict=True) if other == one]
            assert set(sizes[:-1]) <= {size}, case
        dropped += drop
        if training:
            mixed += len(list(itertools.groupby(of_bucket))) > len(set(of_bucket))
        else:
            assert batches == sorted(batches, key=lambda batch: (bucket[batch[0]], batch[0])), case
            assert all(batch == sorted(batch) for batch in batches), case
    assert dropped > 20
    assert not training or mixed > 50


def test_bucketed_training_uses_an_example_near_its_place_in_the_order():
    """A batch comes as soon as its last member would have: no bucket is kept for the end of the epoch."""
    case = next(case for case in cases(50, **PLAIN, training=True, batch_size=3) if case.records > 100)
    bucket = np.arange(case.records) % 3
    place = {row: at for at, row in enumerate(flat(epoch(case.plan(), 0)))}
    last = [max(place[row] for row in batch) for batch in epoch(case.plan(bucket), 0)]
    assert last == sorted(last)


def test_random_numbers_are_used_for_one_thing_only():
    """What class 0 shows in epoch 0 is not told by the order of the shards in epoch 2."""
    shard = [*range(16), *[15] * 4]
    label = [0] * 16 + [1] * 4
    index, told = index_of(shard, label=label), 0
    for seed in range(40):
        shown = set(Plan(index, batches_of(32, training=True, seed=seed, balanced=True)).batch(0).tolist())
        order = Plan(index, batches_of(32, training=True, seed=seed, shuffle_mb=1)).batch(2).tolist()
        in_turn = [row in shown for row in order if label[row] == 0]
        told += in_turn == sorted(in_turn, reverse=True)
    assert told <= 1  # by chance: one in 8,008


def test_what_does_not_go_together_is_refused():
    index = index_of([0, 0, 1])
    with pytest.raises(InputError, match="drop_remainder=True leaves no batch: 3 examples in batches of 4"):
        Plan(index, batches_of(4, drop_remainder=True))
    with pytest.raises(InputError, match="needs a fixed image_size"):
        Plan(index, batches_of(32, training=True, balanced=True), np.zeros(3, int))
    several = dataclasses.replace(index, label=np.zeros((3, 2), np.uint8))
    with pytest.raises(InputError, match="this data set is multi-label"):
        Plan(several, batches_of(32, training=True, balanced=True))

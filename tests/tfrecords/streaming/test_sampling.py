"""The laws of the order of a stream, each held over hundreds of drawn splits and options."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cxr.errors import InputError
from tfrecords.streaming.sampling import Plan, Sampling
from tfrecords.streaming.split_index import SplitIndex

MB = 1 << 20
NEVER_CUT = 1 << 20
"""Megabytes in which every drawn split fits."""


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
    sampling: Sampling
    records: int
    shards: int

    def plan(self, bucket: np.ndarray | None = None, **changes) -> Plan:
        return Plan(self.index, dataclasses.replace(self.sampling, **changes), bucket)

    def plans(self, bucket: np.ndarray | None = None, **changes) -> list[Plan]:
        """One of each replica."""
        replicas = changes.get("replicas", self.sampling.replicas)
        return [self.plan(bucket, **changes, replica=replica) for replica in range(replicas)]


def cases(count: int, **fixed) -> Iterator[Case]:
    """Splits of 1 to 200 records in 1 to 12 shards, some dealt evenly and some with empty shards, and options."""
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
            "replicas": int(rng.integers(1, min(7, records) + 1)),
        }
        drawn |= fixed
        if drawn["replicas"] <= records:
            yield Case(number, index, Sampling(**drawn), records, shards)


def workable(found: Iterator[Case]) -> Iterator[Case]:
    """Without those where dropping the remainder leaves nothing, which must say so."""
    for case in found:
        parts = [len(plan.rows) for plan in case.plans(drop_remainder=False, balanced=False)]
        if case.sampling.drop_remainder and min(parts) < case.sampling.batch_size:
            with pytest.raises(InputError, match="drop_remainder=True leaves no batch"):
                case.plan()
        else:
            yield case


def epoch(plan: Plan, number: int) -> list[list[int]]:
    """The batches of an epoch."""
    begin = number * plan.steps_per_epoch
    return [plan.batch(step).tolist() for step in range(begin, begin + plan.steps_per_epoch)]


def flat(batches: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


def test_golden_order():
    """A literal order: whoever changes the algorithm breaks every run that is to be resumed, and should know."""
    index = index_of([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2], label=[0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0])
    options = {"batch_size": 5, "training": True, "seed": 7}
    assert {
        "epoch 0": epoch(Plan(index, Sampling(**options)), 0),
        "epoch 1": epoch(Plan(index, Sampling(**options)), 1),
        "windows": epoch(Plan(index, Sampling(**options, shuffle_mb=3)), 0),
        "balanced": epoch(Plan(index, Sampling(**options, balanced=True)), 0),
        "replica": epoch(Plan(index, Sampling(**options, replica=1, replicas=2)), 0),
    } == GOLDEN


GOLDEN = {
    "epoch 0": [[10, 3, 5, 4, 7], [8, 11, 1, 2, 9], [6, 0]],
    "epoch 1": [[0, 3, 11, 5, 1], [9, 7, 8, 4, 2], [10, 6]],
    "windows": [[7, 8, 10, 11, 9], [5, 4, 6, 1, 2], [0, 3]],
    "balanced": [[10, 3, 5, 5, 8], [9, 11, 2, 3, 10], [6, 1]],
    "replica": [[5, 3, 7, 9, 1], [11]],
}


def test_two_plans_are_equal_and_any_step_can_come_first():
    steps = 0
    for case in workable(cases(300)):
        going_on = case.plan()
        whole = [going_on.batch(step).tolist() for step in range(3 * going_on.steps_per_epoch)]
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


@pytest.mark.parametrize("replicas", range(1, 8))
def test_every_example_is_used_once_an_epoch_over_all_replicas(replicas):
    by_file = by_record = 0
    for case in cases(150, replicas=replicas, balanced=False, drop_remainder=False):
        plans = case.plans()
        for number in (0, 1, 5):
            used = collections.Counter(flat([row for plan in plans for row in epoch(plan, number)]))
            assert used == dict.fromkeys(range(case.records), 1), (case, number)
        for plan in plans:
            assert sorted(flat(epoch(plan, 0))) == plan.rows.tolist(), case
        owners = [set(case.index.shard[plan.rows].tolist()) for plan in plans]
        if sum(map(len, owners)) == len(set().union(*owners)):
            by_file += 1
        else:
            by_record += 1
            for replica, plan in enumerate(plans):
                assert plan.rows.tolist() == list(range(replica, case.records, replicas)), case
    if replicas == 1:
        assert by_file > 100
    else:
        assert by_file > 10
        assert by_record > 10


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_all_replicas_take_the_same_number_of_steps(balanced, drop_remainder):
    uneven = 0
    for case in workable(cases(400, training=True, balanced=balanced, drop_remainder=drop_remainder)):
        size = case.sampling.batch_size
        if size == 1:
            continue
        plans = case.plans()
        assert len({plan.steps_per_epoch for plan in plans}) == 1, case
        uneven += len({len(plan.rows) for plan in plans}) > 1
        least = min(len(plan.rows) for plan in plans)
        most = max(len(plan.rows) for plan in plans)
        assert plans[0].steps_per_epoch == (least // size if drop_remainder else -(-most // size)), case
    assert uneven > 50


def test_batches_are_full_but_for_the_last():
    halved = 0
    for case in workable(cases(400)):
        size = case.sampling.batch_size
        for plan in case.plans():
            lengths = [len(batch) for batch in epoch(plan, 1)]
            if case.sampling.drop_remainder:
                assert set(lengths) == {size}, case
                assert sum(lengths) <= len(plan.rows), case
            else:
                assert sum(lengths) == len(plan.rows), case
                assert min(lengths) >= 1, case
                if len(lengths) == -(-len(plan.rows) // size):
                    assert set(lengths[:-1]) <= {size}, case
                else:  # a step more than its examples need, as many as the other replicas take
                    halved += 1
                    assert set(lengths[:-2]) <= {size}, case
                    assert lengths[-2] + lengths[-1] == size, case
                    assert lengths[-2] - lengths[-1] in (0, 1), case
            assert plan.uniform == (set(lengths) == {size}), case
    assert halved > 5


def test_a_dropped_remainder_is_another_one_in_each_epoch():
    plan = Plan(index_of(np.arange(23) // 8), Sampling(5, training=True, drop_remainder=True))
    left_out = [set(range(23)) - set(flat(epoch(plan, number))) for number in range(30)]
    assert {len(rows) for rows in left_out} == {3}
    assert set().union(*left_out) == set(range(23))


def test_one_example_a_batch_loses_none_either():
    for case in cases(200, batch_size=1, balanced=False, drop_remainder=False):
        plans = case.plans()
        assert sorted(flat([row for plan in plans for row in epoch(plan, 2)])) == list(range(case.records)), case
        steps = [plan.steps_per_epoch for plan in plans]
        assert max(steps) - min(steps) <= 1, case


def test_evaluation_is_in_stored_order_and_keeps_the_last_batch():
    partial = 0
    for case in cases(300, training=False, balanced=False, drop_remainder=False):
        for plan in case.plans():
            order = flat(epoch(plan, 0))
            assert order == sorted(order) == plan.rows.tolist(), case
            assert epoch(plan, 1) == epoch(plan, 0), case
            partial += not plan.uniform
    assert partial > 100


def test_the_seed_and_the_windows_say_nothing_about_evaluation():
    for case in cases(60, training=False, balanced=False, drop_remainder=False):
        assert epoch(case.plan(seed=1, shuffle_mb=1), 0) == epoch(case.plan(seed=2, shuffle_mb=999), 3), case


def test_epochs_and_seeds_differ():
    compared = 0
    for case in workable(cases(300, training=True)):
        if len(case.plan().rows) < 15 or case.records < 2 * case.shards:
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
    options = dataclasses.replace(case.sampling, shuffle_mb=1, balanced=False, drop_remainder=False)
    return flat(epoch(Plan(whole, options), number))


def test_shards_are_read_one_after_another_in_an_order_that_changes():
    changed = 0
    for case in cases(200, training=True):
        orders = set()
        for number in range(4):
            walk = walk_of(case, number)
            shards = [shard for shard, _ in itertools.groupby(case.index.shard[walk].tolist())]
            assert len(shards) == len(set(shards)), (case, "a shard is left and come back to")
            for shard in shards:
                rows = [row for row in walk if case.index.shard[row] == shard]
                assert rows == sorted(rows), case
            orders.add(tuple(shards))
        changed += len(orders) > 1
    assert changed > 100


def test_a_record_is_never_used_outside_its_window():
    several = moved = 0
    for case in cases(250, training=True, balanced=False, drop_remainder=False):
        limit = case.sampling.shuffle_mb * MB
        plan = case.plan()
        for number in (0, 3):
            walk, order = walk_of(case, number), flat(epoch(plan, number))
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
    assert moved > 0.7 * several


def test_within_its_window_a_record_may_come_at_any_place():
    """Chi-square over 3,000 epochs of 12 records in one window, 11 x 11 degrees of freedom: 99.99 % lie below 186."""
    plan = Plan(index_of(np.arange(12) // 4), Sampling(12, training=True, seed=5))
    times = np.zeros((12, 12))
    epochs = 3000
    for number in range(epochs):
        times[np.arange(12), plan.batch(number)] += 1
    assert ((times - epochs / 12) ** 2 / (epochs / 12)).sum() < 186


def test_balanced_classes_have_equal_shares_and_examples_equal_turns():
    unlike = 0
    for case in cases(200, training=True, balanced=True, drop_remainder=False):
        for plan in case.plans():
            labels = case.index.label
            times: collections.Counter[int] = collections.Counter(dict.fromkeys(plan.rows.tolist(), 0))
            for number in range(7):
                rows = flat(epoch(plan, number))
                assert len(rows) == len(plan.rows), case
                shares = collections.Counter(labels[rows].tolist())
                assert set(shares) == set(labels[plan.rows].tolist()), case
                assert max(shares.values()) - min(shares.values()) <= 1, (case, number, shares)
                times.update(rows)
                assert set(times) == set(plan.rows.tolist()), (case, "a row of another replica")
                for label in set(labels[plan.rows].tolist()):
                    turns = [times[row] for row in plan.rows.tolist() if labels[row] == label]
                    assert max(turns) - min(turns) <= 1, (case, number, label)
            stored = collections.Counter(labels[plan.rows].tolist())
            unlike += max(stored.values()) > 2 * min(stored.values())
    assert unlike > 50


def test_balanced_with_equal_classes_uses_each_example_once():
    index = index_of(np.arange(30) // 10, label=np.arange(30) % 3)
    plan = Plan(index, Sampling(7, training=True, balanced=True))
    assert [sorted(flat(epoch(plan, number))) for number in range(3)] == [list(range(30))] * 3


def test_windows_hold_for_balanced_orders_too():
    for case in cases(100, training=True, balanced=True, drop_remainder=False):
        limit = case.sampling.shuffle_mb * MB
        order = flat(epoch(case.plan(), 1))
        place = {shard: at for at, shard in enumerate(dict.fromkeys(case.index.shard[walk_of(case, 1)].tolist()))}
        walk = sorted(order, key=lambda row: (place[int(case.index.shard[row])], row))
        window = (np.cumsum(case.index.length[walk]) // limit).tolist()
        begin = 0
        for _, members in itertools.groupby(window):
            end = begin + len(list(members))
            assert sorted(order[begin:end]) == sorted(walk[begin:end]), case
            begin = end


@pytest.mark.parametrize("training", [False, True])
def test_batches_of_one_bucket_each_use_every_example_once(training):
    dropped = mixed = 0
    for case in cases(300, training=training, balanced=False):
        size, drop = case.sampling.batch_size, case.sampling.drop_remainder
        bucket = np.random.default_rng(case.number).integers(0, 5, case.records)
        used: collections.Counter[int] = collections.Counter()
        for replica in range(case.sampling.replicas):
            rows = case.plan(drop_remainder=False, replica=replica).rows
            counts = np.bincount(bucket[rows], minlength=5)
            if drop and max(counts) < size:
                with pytest.raises(InputError, match="drop_remainder=True leaves no batch"):
                    case.plan(bucket, replica=replica)
                continue
            plan = case.plan(bucket, replica=replica)
            batches = epoch(plan, 1)
            lengths = [len(batch) for batch in batches]
            assert all(len(set(bucket[batch].tolist())) == 1 for batch in batches), case
            assert plan.uniform == (set(lengths) == {size}), case
            found = np.bincount(bucket[flat(batches)], minlength=5)
            if drop:
                assert set(lengths) == {size}, case
                np.testing.assert_array_equal(found, counts // size * size)
                dropped += 1
            else:
                np.testing.assert_array_equal(found, counts)
                per_bucket = collections.defaultdict(list)
                for batch in batches:
                    per_bucket[int(bucket[batch[0]])].append(len(batch))
                assert all(set(sizes[:-1]) <= {size} for sizes in per_bucket.values()), case
            if training:
                in_a_row = len([key for key, _ in itertools.groupby(bucket[batch[0]] for batch in batches)])
                mixed += in_a_row > len({int(bucket[batch[0]]) for batch in batches})
            else:
                assert batches == sorted(batches, key=lambda batch: (bucket[batch[0]], batch[0])), case
                assert all(batch == sorted(batch) for batch in batches), case
            used.update(flat(batches))
        assert max(used.values(), default=1) == 1, case
        assert drop or len(used) == case.records, case
    assert dropped > 20
    assert not training or mixed > 50


def test_bucketed_training_uses_an_example_near_its_place_in_the_order():
    """A batch comes as soon as its last member would have: no bucket is kept for the end of the epoch."""
    fixed = {"training": True, "balanced": False, "drop_remainder": False, "replicas": 1, "batch_size": 3}
    case = next(case for case in cases(50, **fixed) if case.records > 100)
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
        shown = set(Plan(index, Sampling(32, training=True, seed=seed, balanced=True)).batch(0).tolist())
        order = Plan(index, Sampling(32, training=True, seed=seed, shuffle_mb=1)).batch(2).tolist()
        in_turn = [row in shown for row in order if label[row] == 0]
        told += in_turn == sorted(in_turn, reverse=True)
    assert told <= 1  # by chance: one in 8,008


BAD = [
    ({"batch_size": 0}, "batch_size=0: expected a whole number of at least 1"),
    ({"batch_size": 2.0}, "batch_size=2.0: expected a whole number of at least 1"),
    ({"batch_size": True}, "batch_size=True: expected a whole number of at least 1"),
    ({"batch_size": "8"}, "batch_size='8': expected a whole number of at least 1"),
    ({"seed": -1}, "seed=-1: expected a whole number of at least 0"),
    ({"seed": None}, "seed=None: expected a whole number of at least 0"),
    ({"shuffle_mb": 0}, "shuffle_mb=0: expected a whole number of at least 1"),
    ({"replicas": 0}, "replicas=0: expected a whole number of at least 1"),
    ({"replica": -1, "replicas": 2}, "replica=-1: expected a whole number of at least 0"),
    ({"replica": 2, "replicas": 2}, "replica=2 of replicas=2: expected 0 to 1"),
    ({"balanced": True}, "balanced=True repeats and leaves out examples; it is for training=True only"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_a_bad_value_is_named(options, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        Sampling(**options)


def test_what_does_not_go_together_is_refused():
    index = index_of([0, 0, 1])
    with pytest.raises(InputError, match="4 replicas cannot share 3 examples"):
        Plan(index, Sampling(replicas=4))
    with pytest.raises(InputError, match="drop_remainder=True leaves no batch: 3 examples in batches of 4"):
        Plan(index, Sampling(4, drop_remainder=True))
    with pytest.raises(InputError, match="needs a fixed image_size"):
        Plan(index, Sampling(training=True, balanced=True), np.zeros(3, int))
    several = dataclasses.replace(index, label=np.zeros((3, 2), np.uint8))
    with pytest.raises(InputError, match="this data set is multi-label"):
        Plan(several, Sampling(training=True, balanced=True))

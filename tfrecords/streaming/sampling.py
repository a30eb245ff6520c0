"""Which records make which batch: a pure function of the options, the seed and the step.

Nothing here reads an image. The plan of an epoch is a permutation of row numbers, so a run can begin at any
step at no cost, many replicas can each work out their own part, and the order does not depend on how many
threads read it, how fast, or how often the run was stopped.

Randomness is the raw output of the Philox counter-based generator (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011), seeded through NumPy's SeedSequence. NumPy keeps both the same over versions, which
it does not promise of `permutation` or `shuffle`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from cxr.errors import InputError
from tfrecords.streaming.split_index import SplitIndex

_SHARDS, _RECORDS, _CLASS = range(3)
"""What a stream of random numbers is for, so that no two uses share one."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the batches of a split are drawn.

    Attributes:
      batch_size: examples a batch, on each replica.
      training: shuffle anew in every epoch; otherwise stored order.
      seed: of the order.
      shuffle_mb: megabytes of stored records within which they are shuffled; shard order is shuffled always.
      balanced: draw each class equally often.
      drop_remainder: leave out the last, smaller batch of an epoch.
      replica, replicas: which part of the split this process reads, of how many.
    """

    batch_size: int = 32
    training: bool = False
    seed: int = 0
    shuffle_mb: int = 2048
    balanced: bool = False
    drop_remainder: bool = False
    replica: int = 0
    replicas: int = 1

    def __post_init__(self):
        for name, least in (("batch_size", 1), ("seed", 0), ("shuffle_mb", 1), ("replicas", 1), ("replica", 0)):
            check_whole(name, getattr(self, name), least)
        if self.replica >= self.replicas:
            raise InputError(f"replica={self.replica} of replicas={self.replicas}: expected 0 to {self.replicas - 1}")
        if self.balanced and not self.training:
            raise InputError("balanced=True repeats and leaves out examples; it is for training=True only")


def check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raises InputError, with the name of the option, unless its value is a whole number in the range."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        span = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise InputError(f"{name}={value!r}: expected a whole number {span}")


class Plan:
    """The batches of one split, epoch by epoch."""

    def __init__(self, index: SplitIndex, sampling: Sampling, bucket: np.ndarray | None = None):
        """Works out which rows are this replica's.

        Args:
          index: of the split; n records.
          sampling: how to draw.
          bucket: int [n]: only rows of the same bucket share a batch. Without it any rows do.

        Raises:
          InputError: fewer records than replicas, or options that do not go together.
        """
        if len(index) < sampling.replicas:
            raise InputError(f"{sampling.replicas} replicas cannot share {len(index)} examples; use fewer replicas")
        if sampling.balanced and index.label.ndim != 1:
            raise InputError("balanced=True needs exactly one label an image; this data set is multi-label")
        if sampling.balanced and bucket is not None:
            raise InputError("balanced=True needs a fixed image_size: at native size the steps would differ by epoch")
        self._index, self._sampling, self._bucket = index, sampling, bucket
        parts = _deal(index, sampling.replicas, sampling.batch_size)
        self.rows = parts[sampling.replica]
        """int [m]: the rows of this replica, in stored order."""
        size, drop = sampling.batch_size, sampling.drop_remainder
        if bucket is None:
            lengths = [len(part) for part in parts]
            steps = min(lengths) // size if drop else max(-(-length // size) for length in lengths)
            self._sizes = _step_sizes(len(self.rows), size, steps)
            self.steps_per_epoch = len(self._sizes)
        else:
            counts = np.bincount(bucket[self.rows])
            self.steps_per_epoch = int((counts // size if drop else -(-counts // size)).sum())
        if self.steps_per_epoch == 0:
            raise InputError(
                f"drop_remainder=True leaves no batch: {len(self.rows)} examples in batches of {size}; "
                "lower batch_size or keep the remainder"
            )
        self._epoch_batches = functools.lru_cache(maxsize=2)(self._batches)

    @property
    def uniform(self) -> bool:
        """Whether every batch has exactly `batch_size` examples."""
        size = self._sampling.batch_size
        if self._bucket is None:
            return set(self._sizes) == {size}
        return self._sampling.drop_remainder or not (np.bincount(self._bucket[self.rows]) % size).any()

    def batch(self, step: int) -> np.ndarray:
        """The rows of a batch.

        Args:
          step: from 0, counted over all epochs.

        Returns:
          int64 [batch].
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        return self.epoch(epoch)[position]

    def epoch(self, number: int) -> list[np.ndarray]:
        """The rows of each batch of an epoch, int64 [batch]."""
        return self._epoch_batches(number if self._sampling.training else 0)

    def _batches(self, epoch: int) -> list[np.ndarray]:
        order = self._order(epoch)
        if self._bucket is None:
            ends = np.cumsum(self._sizes)
            return np.split(order[: ends[-1]], ends[:-1])
        size = self._sampling.batch_size
        batches: list[tuple[int, np.ndarray]] = []  # (position of the last member, rows)
        for bucket in np.unique(self._bucket[self.rows]):
            positions = np.flatnonzero(self._bucket[order] == bucket)
            for begin in range(0, len(positions), size):
                chosen = positions[begin : begin + size]
                if len(chosen) == size or not self._sampling.drop_remainder:
                    batches.append((int(chosen[-1]) if self._sampling.training else len(batches), order[chosen]))
        return [rows for _, rows in sorted(batches, key=lambda batch: batch[0])]

    def _order(self, epoch: int) -> np.ndarray:
        """int64: the rows of an epoch in the order in which they are used."""
        sampling, index = self._sampling, self._index
        if not sampling.training:
            return self.rows
        rows = self._balanced(epoch) if sampling.balanced else self.rows
        shard_keys = _random(len(index.paths), sampling.seed, epoch, _SHARDS)
        # rows shard by shard, the shards in random order, cut into windows of so many bytes
        walk = rows[np.lexsort((rows, shard_keys[index.shard[rows]]))]
        window = np.cumsum(index.length[walk]) // (sampling.shuffle_mb << 20)
        return walk[np.lexsort((_random(len(walk), sampling.seed, epoch, _RECORDS), window))]

    def _balanced(self, epoch: int) -> np.ndarray:
        """int64 [m]: rows of an epoch in which every class has the same share, in no particular order.

        A class is walked in one random order after another, through all epochs, so that each of its examples
        has been used as often as any other, give or take one.
        """
        labels = self._index.label[self.rows]
        classes = np.unique(labels)
        chosen = []
        for place, label in enumerate(classes):
            members = self.rows[labels == label]
            quota = len(self.rows) // len(classes) + (place < len(self.rows) % len(classes))
            begin, end = epoch * quota, (epoch + 1) * quota
            rounds = range(begin // len(members), -(-end // len(members)))
            walk = [members[_permutation(len(members), self._sampling.seed, r, _CLASS, int(label))] for r in rounds]
            first = begin - rounds.start * len(members)
            chosen.append(np.concatenate(walk)[first : first + quota])
        return np.concatenate(chosen)


def _random(count: int, *seed: int) -> np.ndarray:
    """uint64 [count], uniform, a pure function of the seed."""
    return np.random.Philox(np.random.SeedSequence(seed)).random_raw(count)


def _permutation(count: int, *seed: int) -> np.ndarray:
    return np.argsort(_random(count, *seed), kind="stable")


def _deal(index: SplitIndex, replicas: int, batch_size: int) -> list[np.ndarray]:
    """The rows of each replica, in stored order: whole shards where that comes out even, else every n-th record.

    Whole shards let each host read (and its page cache hold) only its own files. They are even when every
    replica takes the same number of steps.
    """
    if replicas == 1:
        return [np.arange(len(index))]
    records = np.bincount(index.shard, minlength=len(index.paths))
    held = [0] * replicas
    owner = np.zeros(len(index.paths), np.int64)
    for shard in np.argsort(-records, kind="stable"):
        owner[shard] = held.index(min(held))
        held[owner[shard]] += int(records[shard])
    if min(held) > 0 and len({-(-count // batch_size) for count in held}) == 1:
        return [np.flatnonzero(owner[index.shard] == replica) for replica in range(replicas)]
    return [np.arange(replica, len(index), replicas) for replica in range(replicas)]


def _step_sizes(examples: int, batch_size: int, steps: int) -> Sequence[int]:
    """Sizes of the batches of an epoch: full ones, then the rest; the last full one is halved where a step is
    missing, so that a replica with one example less does not end an epoch a step before the others."""
    sizes = [batch_size] * min(steps, examples // batch_size)
    if len(sizes) < steps and examples % batch_size:
        sizes.append(examples % batch_size)
    if len(sizes) < steps and sizes[-1] > 1:
        last = sizes.pop()
        sizes += [last - last // 2, last // 2]
    return sizes

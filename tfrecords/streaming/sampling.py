"""Which records make which batch: a pure function of the options, the seed and the step.

Nothing here reads an image. The plan of an epoch is a permutation of row numbers, so a run can begin at any
step at no cost, and the order does not depend on how many threads read it, how fast, or how often the run was
stopped.

Randomness is the raw output of the Philox counter-based generator (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011), seeded through NumPy's SeedSequence. NumPy keeps both the same over versions, which
it does not promise of `permutation` or `shuffle`.
"""

from __future__ import annotations

import functools

import numpy as np

from cxr.errors import InputError
from tfrecords.streaming.split_index import SplitIndex
from tfrecords.streaming.stream_options import StreamOptions

_SHARDS, _RECORDS, _CLASS = range(3)
"""What a stream of random numbers is for, so that no two uses share one."""


class Plan:
    """The batches of one split, epoch by epoch."""

    def __init__(self, index: SplitIndex, options: StreamOptions, bucket: np.ndarray | None = None):
        """Works out the sizes of the batches.

        Args:
          index: of the split; n records.
          options: of the stream; `batch_size`, `training`, `seed`, `balanced`, `shuffle_mb` and `drop_remainder` count.
          bucket: int [n]: only rows of the same bucket share a batch. Without it any rows do.

        Raises:
          InputError: options that do not go together, or no batch is left.
        """
        if options.balanced and index.label.ndim != 1:
            raise InputError("balanced=True needs exactly one label an image; this data set is multi-label")
        if options.balanced and bucket is not None:
            raise InputError("balanced=True needs a fixed image_size: at native size the steps would differ by epoch")
        self._index, self._options, self._bucket = index, options, bucket
        size = options.batch_size
        counts = np.array([len(index)]) if bucket is None else np.bincount(bucket)
        self.steps_per_epoch = int((counts // size if options.drop_remainder else -(-counts // size)).sum())
        self.uniform: bool = options.drop_remainder or not (counts % size).any()
        """Whether every batch has exactly `batch_size` examples."""
        if self.steps_per_epoch == 0:
            raise InputError(
                f"drop_remainder=True leaves no batch: {len(index)} examples in batches of {size}; "
                "lower batch_size or keep the remainder"
            )
        self._epoch_batches = functools.lru_cache(maxsize=2)(self._batches)

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
        return self._epoch_batches(number if self._options.training else 0)

    def _batches(self, epoch: int) -> list[np.ndarray]:
        order, size = self._order(epoch), self._options.batch_size
        if self._bucket is None:
            return [order[step * size : (step + 1) * size] for step in range(self.steps_per_epoch)]
        batches: list[tuple[int, np.ndarray]] = []  # (position of the last member, rows)
        for bucket in np.unique(self._bucket):
            positions = np.flatnonzero(self._bucket[order] == bucket)
            for begin in range(0, len(positions), size):
                chosen = positions[begin : begin + size]
                if len(chosen) == size or not self._options.drop_remainder:
                    batches.append((int(chosen[-1]) if self._options.training else len(batches), order[chosen]))
        return [rows for _, rows in sorted(batches, key=lambda batch: batch[0])]

    def _order(self, epoch: int) -> np.ndarray:
        """int64: the rows of an epoch in the order in which they are used."""
        options, index = self._options, self._index
        if not options.training:
            return np.arange(len(index))
        rows = self._balanced(epoch) if options.balanced else np.arange(len(index))
        shard_keys = _random(len(index.paths), options.seed, epoch, _SHARDS)
        # rows shard by shard, the shards in random order, cut into windows of so many bytes
        walk = rows[np.lexsort((rows, shard_keys[index.shard[rows]]))]
        window = np.cumsum(index.length[walk]) // (options.shuffle_mb << 20)
        return walk[np.lexsort((_random(len(walk), options.seed, epoch, _RECORDS), window))]

    def _balanced(self, epoch: int) -> np.ndarray:
        """int64 [n]: rows of an epoch in which every class has the same share, in no particular order.

        A class is walked in one random order after another, through all epochs, so that each of its examples
        has been used as often as any other, give or take one.
        """
        labels = self._index.label
        classes = np.unique(labels)
        chosen = []
        for place, label in enumerate(classes):
            members = np.flatnonzero(labels == label)
            quota = len(labels) // len(classes) + (place < len(labels) % len(classes))
            begin, end = epoch * quota, (epoch + 1) * quota
            rounds = range(begin // len(members), -(-end // len(members)))
            walk = [members[_permutation(len(members), self._options.seed, r, _CLASS, int(label))] for r in rounds]
            first = begin - rounds.start * len(members)
            chosen.append(np.concatenate(walk)[first : first + quota])
        return np.concatenate(chosen)


def _random(count: int, *seed: int) -> np.ndarray:
    """uint64 [count], uniform, a pure function of the seed."""
    return np.random.Philox(np.random.SeedSequence(seed)).random_raw(count)


def _permutation(count: int, *seed: int) -> np.ndarray:
    return np.argsort(_random(count, *seed), kind="stable")

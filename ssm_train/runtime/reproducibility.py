"""Data order and randomness as pure functions of (seed, epoch, sample) and (seed, iteration, rank).

No random number depends on those drawn before, on the number of workers or on how a batch is split over processes.
There are therefore no random states to save. A run that is killed and resumed at any iteration draws the same numbers.
"""

import functools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from ssm_train.data.workers import StoppableLoader, shielded
from ssm_train.data.wrapper import DatasetWrapper
from ssm_train.runtime import loading_processes

STALLED = 300  # seconds after which workers that gave no batch are given up, unless the loader's timeout says otherwise
_SAMPLE, _ITERATION = 0, 1  # first number of a key, so that samples and iterations never share a key


def _seed_generators(*key: int) -> int:
    words = np.random.SeedSequence(key).generate_state(8)
    random.seed(int(words[0]) << 32 | int(words[1]))
    np.random.seed(words[2:6])
    return int(words[6]) << 31 | int(words[7]) >> 1


def seed_sample(seed: int, epoch: int, index: int) -> None:
    """Seed Python, NumPy and torch (on the CPU) for loading and augmenting one sample in one epoch."""
    torch.default_generator.manual_seed(_seed_generators(_SAMPLE, seed, epoch, index))


def seed_iteration(seed: int, iteration: int, rank: int) -> None:
    """Seed Python, NumPy and torch (on all devices) for one training iteration of one process."""
    torch.manual_seed(_seed_generators(_ITERATION, seed, iteration, rank))


class SampleIndex(int):
    """A dataset index that carries its epoch, so that a worker process that lives for many epochs learns it.

    It is an ``int``, so that every dataset accepts it.
    """

    epoch: int

    def __new__(cls, index: int, epoch: int) -> "SampleIndex":
        """Make the index of sample ``index`` in epoch ``epoch``."""
        self = super().__new__(cls, index)
        self.epoch = epoch
        return self

    def __reduce__(self) -> tuple:
        return SampleIndex, (int(self), self.epoch)


class SeededDataset(DatasetWrapper):
    """A map-style dataset that seeds the generators before every sample, and else behaves like the dataset in it."""

    def __init__(self, dataset: Dataset, seed: int):
        super().__init__(dataset)
        self.seed = seed

    def __getitem__(self, index: int) -> Any:
        seed_sample(self.seed, getattr(index, "epoch", 0), int(index))
        return self.dataset[int(index)]


class SeededBatches(SeededDataset):
    """A dataset that loads a batch at once, such as :class:`.ImageArrays`, seeded by the first sample of the batch."""

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """The batch, which torch's loader passes to its ``collate_fn``."""
        seed_sample(self.seed, getattr(indices[0], "epoch", 0), int(indices[0]))
        return self.dataset.load_batch([int(index) for index in indices])


class ResumableBatchSampler:
    """A batch sampler whose indices carry their epoch, and which can start within an epoch without loading data.

    An endless sampler, such as mmengine's ``InfiniteSampler``, has no epochs. Its indices carry the number of their
    batch instead. Every pass over an endless sampler starts anew. Batches that an abandoned pass fetched ahead are
    therefore not lost.
    """

    def __init__(self, batch_sampler: BatchSampler):
        self.batch_sampler = batch_sampler
        self._skip = 0

    @property
    def sampler(self) -> Any:
        """The sampler of the indices, whose ``set_epoch`` mmengine's ``DistSamplerSeedHook`` calls."""
        return self.batch_sampler.sampler

    @property
    def batch_size(self) -> int:
        """Number of samples in a batch of this process."""
        return self.batch_sampler.batch_size

    def skip(self, batches: int) -> None:
        """Leave out the first ``batches`` batches of the next pass."""
        self._skip = batches

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        skip, self._skip = self._skip, 0
        if hasattr(self.sampler, "skip"):  # endless
            self.sampler.skip(skip * self.batch_size)
            for number, batch in enumerate(self.batch_sampler, start=skip):
                yield [SampleIndex(index, number) for index in batch]
            return
        epoch = getattr(self.sampler, "epoch", 0)
        for number, batch in enumerate(self.batch_sampler):
            if number >= skip:
                yield [SampleIndex(index, getattr(index, "epoch", epoch)) for index in batch]


def make_reproducible(loader: DataLoader, seed: int, dataset: Dataset | None = None) -> DataLoader:
    """Rebuild a loader with a :class:`SeededDataset` and a :class:`ResumableBatchSampler`.

    Streams (``IterableDataset``) and loaders without automatic batching are returned as they are.

    Args:
        loader: the loader.
        seed: seed of the run.
        dataset: replaces the dataset of the loader, if given.
    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return loader
    dataset = loader.dataset if dataset is None else dataset
    seeded = SeededBatches if hasattr(dataset, "load_batch") else SeededDataset
    return StoppableLoader(
        seeded(dataset, seed),
        batch_sampler=ResumableBatchSampler(loader.batch_sampler),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory and torch.accelerator.is_available(),
        timeout=loader.timeout or (STALLED if loader.num_workers else 0),
        worker_init_fn=functools.partial(loading_processes.start, functools.partial(shielded, loader.worker_init_fn)),
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )


def reseed(loader: DataLoader, seed: int) -> None:
    """Give a loader from :func:`make_reproducible` another seed. This has to happen before it is iterated."""
    if isinstance(loader.dataset, SeededDataset):
        loader.dataset.seed = seed
        if hasattr(loader.batch_sampler.sampler, "seed"):
            loader.batch_sampler.sampler.seed = seed

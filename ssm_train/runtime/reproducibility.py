"""Data order and randomness as pure functions of (seed, epoch, sample) and (seed, iteration, rank).

Nothing random depends on what was drawn before, on the number of workers or on how a batch is split over processes.
So there are no random states to save: a run killed and resumed at any iteration draws what it would have drawn.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

_SAMPLE, _ITERATION = 0, 1  # keep the two kinds of draws apart


def _seed_generators(*key: int) -> int:
    words = np.random.SeedSequence(key).generate_state(8)
    random.seed(int(words[0]) << 32 | int(words[1]))
    np.random.seed(words[2:6])
    return int(words[6]) << 31 | int(words[7]) >> 1


def seed_sample(seed: int, epoch: int, index: int) -> None:
    """Seed Python, NumPy and torch (CPU) for loading and augmenting one sample in one epoch."""
    torch.default_generator.manual_seed(_seed_generators(_SAMPLE, seed, epoch, index))


def seed_iteration(seed: int, iteration: int, rank: int) -> None:
    """Seed Python, NumPy and torch (all devices) for one training iteration of one process."""
    torch.manual_seed(_seed_generators(_ITERATION, seed, iteration, rank))


class SampleIndex(int):
    """A dataset index that knows its epoch, so that a worker started long ago still learns it.

    An ``int`` in every respect, hence any dataset takes it.
    """

    epoch: int

    def __new__(cls, index: int, epoch: int) -> "SampleIndex":
        """Make the index of sample ``index`` in epoch ``epoch``."""
        self = super().__new__(cls, index)
        self.epoch = epoch
        return self

    def __reduce__(self) -> tuple:
        return SampleIndex, (int(self), self.epoch)


class SeededDataset(Dataset):
    """Seeds the generators before every sample of any map-style dataset; otherwise that dataset itself."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed

    def __getattr__(self, name: str) -> Any:
        # Dunder names stay undefined: DataLoader would use the inner dataset's __getitems__ and pass the seeding by,
        # and unpickling asks for __setstate__ before there is an inner dataset.
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        seed_sample(self.seed, getattr(index, "epoch", 0), int(index))
        return self.dataset[int(index)]


class ResumableBatchSampler:
    """Wraps a batch sampler: tells every index its epoch, and can start in mid-epoch without loading any data.

    An endless sampler (mmengine's ``InfiniteSampler``) has no epochs: an index is told the number of its batch instead.
    Such a sampler begins anew with every pass, so that what an abandoned one has fetched ahead is not lost.
    """

    def __init__(self, batch_sampler: BatchSampler):
        self.batch_sampler = batch_sampler
        self._skip = 0

    @property
    def sampler(self) -> Any:
        """The sampler beneath, whose ``set_epoch`` mmengine's ``DistSamplerSeedHook`` calls."""
        return self.batch_sampler.sampler

    @property
    def batch_size(self) -> int:
        """Samples in a batch, in this process."""
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
                yield [SampleIndex(index, epoch) for index in batch]


def make_reproducible(loader: DataLoader, seed: int, dataset: Dataset | None = None) -> DataLoader:
    """The same loader with :class:`SeededDataset` and :class:`ResumableBatchSampler` put in.

    A ``dataset`` takes the place of the loader's own. Streams (``IterableDataset``) and loaders without automatic
    batching are returned as they are.
    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return loader
    return DataLoader(
        SeededDataset(loader.dataset if dataset is None else dataset, seed),
        batch_sampler=ResumableBatchSampler(loader.batch_sampler),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory and torch.accelerator.is_available(),
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )


def reseed(loader: DataLoader, seed: int) -> None:
    """Give a loader of :func:`make_reproducible` another seed, before it is iterated."""
    if isinstance(loader.dataset, SeededDataset):
        loader.dataset.seed = seed
        if hasattr(loader.batch_sampler.sampler, "seed"):
            loader.batch_sampler.sampler.seed = seed

"""Random draws and the order of the data depend only on (seed, epoch, sample) and on (seed, iteration, rank)."""

import pickle
import random
from types import MappingProxyType

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from torch.utils.data import DataLoader, Dataset

from ssm_train.runtime.reproducibility import SampleIndex, make_reproducible, reseed, seed_iteration, seed_sample


def draws():
    return random.random(), np.random.rand(), torch.rand(()).item()


class Noise(Dataset):
    """Returns the random numbers that a sample's augmentation would draw."""

    metainfo = MappingProxyType({"classes": ["noise"]})

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index, *draws()


def make_loader(workers=0, seed=5, **options):
    sampler = DefaultSampler(Noise(), shuffle=True, seed=seed)
    loader = DataLoader(Noise(), batch_size=3, sampler=sampler, num_workers=workers, collate_fn=list, **options)
    return make_reproducible(loader, seed)


def epoch(loader, number, skip=0):
    loader.batch_sampler.sampler.set_epoch(number)
    loader.batch_sampler.skip(skip)
    return list(loader)


def test_draws_are_functions_of_the_key():
    keys = [(seed, a, b) for seed in (0, 1, 2**31) for a in range(3) for b in range(3)]
    seen = {}
    for seeder in (seed_sample, seed_iteration):
        for key in keys:
            seeder(*key)
            seen[seeder, key] = draws()
            draws()
    for (seeder, key), expected in seen.items():
        seeder(*key)
        assert draws() == expected
    for column in zip(*seen.values(), strict=True):
        assert len(set(column)) == len(column)


def test_index_is_an_int_that_survives_pickling():
    index = pickle.loads(pickle.dumps(SampleIndex(3, epoch=7)))
    assert isinstance(index, int)
    assert (index, index.epoch) == (3, 7)
    assert "abcdef"[index] == "d"


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_nothing(persistent):
    alone, with_workers = make_loader(), make_loader(2, persistent_workers=persistent)
    for number in range(2):
        assert epoch(with_workers, number) == epoch(alone, number)


def test_epochs_and_seeds_differ():
    first, second = epoch(make_loader(), 0), epoch(make_loader(), 1)
    other = epoch(make_loader(seed=6), 0)
    by_index = [{sample[0]: sample[1:] for batch in e for sample in batch} for e in (first, second, other)]
    for a, b in ((0, 1), (0, 2)):
        assert all(by_index[a][i] != by_index[b][i] for i in range(10))
    loader = make_loader(seed=6)
    reseed(loader, 5)
    assert epoch(loader, 0) == first


def test_starting_in_mid_epoch():
    loader = make_loader()
    whole = epoch(loader, 3)
    assert epoch(loader, 3, skip=2) == whole[2:]
    assert epoch(loader, 3) == whole, "skipping is for one pass"


def test_the_dataset_shows_through():
    loader = make_loader()
    assert loader.dataset.metainfo == Noise.metainfo
    assert (len(loader), len(loader.dataset), loader.batch_sampler.batch_size) == (4, 10, 3)
    assert not hasattr(loader.dataset, "__getitems__")

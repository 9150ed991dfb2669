"""A run that is resumed with other processes, another batch size or accumulation takes the same samples."""

import itertools

import mmengine.dataset.sampler as mmengine_sampler
import pytest
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler

from ssm_core.errors import CheckpointError
from ssm_train.runtime.layout import Layout, PieceSampler, pieces_of
from ssm_train.runtime.reproducibility import ResumableBatchSampler


def native(monkeypatch, kind, samples, rank, processes, batch_size, drop_last=False):
    """Return the batch sampler that mmengine makes for one of several processes."""
    monkeypatch.setattr(mmengine_sampler, "get_dist_info", lambda: (rank, processes))
    return BatchSampler(kind(range(samples), seed=5), batch_size, drop_last)


def batches(sampler, epoch, skip, count):
    """Return batches as (index, epoch) pairs, as a training that begins or resumes in an epoch takes them."""
    resumable = ResumableBatchSampler(sampler)
    resumable.sampler.set_epoch(epoch)
    resumable.skip(skip)
    return [[(int(i), i.epoch) for i in batch] for batch, _ in zip(resumable, range(count), strict=False)]


# From processes x batch size to processes x batch size, of 117 samples. The sizes are those of the command lines; a
# product that is too small stands for accumulation.
RELAID = [((8, 4), (4, 8)), ((8, 4), (4, 4)), ((8, 4), (1, 4)), ((2, 4), (1, 3)), ((2, 8), (4, 4)), ((1, 8), (4, 2)),
          ((6, 4), (4, 6)), ((3, 4), (3, 2))]  # fmt: skip


@pytest.mark.parametrize("kind", [DefaultSampler, InfiniteSampler])
@pytest.mark.parametrize(("before", "now"), RELAID)
@pytest.mark.parametrize("drop_last", [False, True])
def test_every_iteration_has_the_same_samples(monkeypatch, kind, before, now, drop_last):
    trained, (processes, largest) = Layout(*before, accumulation=1, samples=117), now
    first = [batches(native(monkeypatch, kind, 117, rank, *before, drop_last), 3, 1, 9) for rank in range(before[0])]
    second, weights = [], []
    for rank in range(processes):
        pieces = pieces_of(trained, processes, rank, largest)
        sampler = PieceSampler(native(monkeypatch, kind, 117, rank, *now, drop_last), trained, pieces)
        second.append(batches(sampler, 3, 1, 9))
        for place, batch in enumerate(second[-1], start=1):
            sizes = sampler.sizes(place)
            assert sum(sizes) == len(batch)
            assert max(sizes) <= largest
            weights += [(place, share / size) for share, size in zip(sampler.weights(place), sizes, strict=True)]
        if pieces[0].count == 1:  # whole batches of the first processes, in the order of the pieces
            assert [piece.seed for piece in pieces] == [piece.process for piece in pieces]
            of_pieces = [first[piece.process] for piece in pieces]
            assert second[-1] == [list(itertools.chain(*parts)) for parts in zip(*of_pieces, strict=True)]
    assert len(second[0]) == len(first[0]) > 0
    for old, new in zip(zip(*first, strict=True), zip(*second, strict=True), strict=True):
        assert sorted(itertools.chain(*old)) == sorted(itertools.chain(*new))
    # Every sample of an iteration has the same weight in the mean over the processes.
    for place in {place for place, _ in weights}:
        of_place = [weight for other, weight in weights if other == place]
        assert of_place == pytest.approx([of_place[0]] * len(of_place))
        assert of_place[0] * sum(len(batch[place - 1]) for batch in first) == pytest.approx(processes)


def test_processes_that_cannot_share_evenly():
    with pytest.raises(CheckpointError, match="7 processes cannot share the 8 batches of 4"):
        pieces_of(Layout(8, 4, 1, 100), 7, 0, 4)


def test_a_last_batch_that_is_too_small(monkeypatch):
    trained = Layout(1, 8, 1, samples=17)
    with pytest.raises(CheckpointError, match="the last batch of an epoch has 1 samples"):
        PieceSampler(native(monkeypatch, DefaultSampler, 17, 0, 2, 4), trained, pieces_of(trained, 2, 0, 4))


def test_a_sampler_that_is_not_known():
    class Backwards(DefaultSampler):
        pass

    sampler, trained = Backwards(range(16), seed=0), Layout(2, 4, 1, 16)
    with pytest.raises(CheckpointError, match="order of this Backwards is not known"):
        PieceSampler(BatchSampler(sampler, 8, False), trained, pieces_of(trained, 1, 0, 8))

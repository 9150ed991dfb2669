"""How a run spreads the samples of an update, and how other processes go on with the same updates.

A run goes through its samples in one global order. An iteration takes ``processes * batch_size`` of them, and an update
takes ``accumulation`` iterations. If a run is resumed in another layout, its iterations stay those of the first one.
Each process then computes the batches of several of the first processes one after the other, or parts of one.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mmengine.dataset import DefaultSampler, InfiniteSampler

from ssm_core.errors import CheckpointError


@dataclass(frozen=True)
class Layout:
    """Sizes on which the samples of an update depend. All are positive.

    Attributes:
        processes: number of processes.
        batch_size: samples of a process in an iteration.
        accumulation: iterations whose gradients make one update.
        samples: length of the training set.
    """

    processes: int
    batch_size: int
    accumulation: int
    samples: int

    @staticmethod
    def read(saved: Any) -> "Layout | None":
        """The inverse of :meth:`plain`; None if the saved value is none of ours."""
        names = {field.name for field in fields(Layout)}
        if not isinstance(saved, Mapping) or set(saved) != names:
            return None
        return Layout(**saved) if all(type(n) is int and n > 0 for n in saved.values()) else None

    def plain(self) -> dict[str, int]:
        """The sizes as plain data."""
        return asdict(self)

    @property
    def update(self) -> int:
        """Number of samples in an update."""
        return self.processes * self.batch_size * self.accumulation

    def __str__(self) -> str:
        processes = "1 process" if self.processes == 1 else f"{self.processes} processes"
        product = f"{processes} x batch size {self.batch_size} x accumulation {self.accumulation}"
        return f"{product} = {self.update} samples an update"


@dataclass(frozen=True)
class Piece:
    """A part of the batch that one process of the first layout had.

    Attributes:
        process: number of that process.
        number: number of the part, from 0.
        count: number of parts of that batch.
        seed: takes the place of the process's number in the seed of an iteration.
    """

    process: int
    number: int
    count: int
    seed: int

    def of(self, batch: list[int]) -> list[int]:
        """The indices of this part."""
        return batch[self.number :: self.count]


def pieces_of(trained: Layout, processes: int, rank: int, largest: int) -> list[Piece]:
    """What a process computes in an iteration of another layout. Every process has the same number of pieces.

    A batch is divided only if it is too large for this layout, or if there would be too few for all processes.

    Args:
        trained: the layout of the run.
        processes: number of processes now.
        rank: number of this process.
        largest: number of samples that a piece may have.

    Raises:
        CheckpointError: the batches cannot be divided evenly among the processes.
    """
    for count in range(math.ceil(trained.batch_size / largest), trained.batch_size + 1):
        if trained.processes * count % processes == 0:
            places = range(rank, trained.processes * count, processes)
            return [Piece(p % trained.processes, p // trained.processes, count, seed=p) for p in places]
    raise CheckpointError(
        f"{processes} processes cannot share the {trained.processes} batches of {trained.batch_size} of an iteration "
        "evenly: take another number of processes"
    )


class PieceSampler:
    """The batch sampler of a process that computes pieces. A batch holds the indices of all its pieces, in order.

    Args:
        batch_sampler: the batch sampler of this process, which is copied for every process of the first layout.
        trained: the layout of the run.
        pieces: the pieces of this process.

    Raises:
        CheckpointError: the sampler is not one of mmengine's, or the last batch of an epoch is too small to be divided.
    """

    def __init__(self, batch_sampler: Any, trained: Layout, pieces: list[Piece]):
        self.batch_size = trained.batch_size
        self.pieces = pieces
        needed = sorted({piece.process for piece in pieces})
        self._of_process = {p: _for_process(batch_sampler, p, trained) for p in needed}
        samplers = [own.sampler for own in self._of_process.values()]
        self.sampler = (_EndlessSamplers if hasattr(samplers[0], "skip") else _Samplers)(samplers)
        count = pieces[0].count
        if self._last_batch() < count:
            raise CheckpointError(
                f"the last batch of an epoch has {self._last_batch()} samples of each process, too few to be divided "
                f"among {count}: take a larger batch size or fewer processes"
            )

    def __len__(self) -> int:
        return len(next(iter(self._of_process.values())))

    def __iter__(self) -> Iterator[list[int]]:
        for batches in zip(*self._of_process.values(), strict=True):
            of_process = dict(zip(self._of_process, batches, strict=True))
            yield [index for piece in self.pieces for index in piece.of(of_process[piece.process])]

    def sizes(self, place: int) -> list[int]:
        """The number of samples in each piece of a batch.

        Args:
            place: number of the batch in its epoch, from 0.
        """
        batch = list(range(self._size(place)))
        return [len(piece.of(batch)) for piece in self.pieces]

    def weights(self, place: int) -> list[float]:
        """The share of each piece in the mean over the batches of all processes of the first layout.

        Args:
            place: see :meth:`sizes`.
        """
        return [size / self._size(place) / len(self.pieces) * self.pieces[0].count for size in self.sizes(place)]

    def _size(self, place: int) -> int:
        endless = isinstance(self.sampler, _EndlessSamplers)
        return self.batch_size if endless or place < len(self) - 1 else self._last_batch()

    def _last_batch(self) -> int:
        if isinstance(self.sampler, _EndlessSamplers):
            return self.batch_size
        return min(self.batch_size, len(self.sampler) - (len(self) - 1) * self.batch_size)


class _Samplers:
    """Samplers of several processes, which are in the same epoch and have the same seed."""

    def __init__(self, samplers: list[Any]):
        self._samplers = samplers

    def __len__(self) -> int:
        return len(self._samplers[0])

    @property
    def epoch(self) -> int:
        return getattr(self._samplers[0], "epoch", 0)

    def set_epoch(self, epoch: int) -> None:
        for sampler in self._samplers:
            sampler.set_epoch(epoch)

    @property
    def seed(self) -> int:
        return self._samplers[0].seed

    @seed.setter
    def seed(self, seed: int) -> None:
        for sampler in self._samplers:
            sampler.seed = seed


class _EndlessSamplers(_Samplers):
    def skip(self, samples: int) -> None:
        for sampler in self._samplers:
            sampler.skip(samples)


def _for_process(batch_sampler: Any, rank: int, trained: Layout) -> Any:
    """A copy of a batch sampler that gives the batches of a process of another layout."""
    sampler = copy.copy(batch_sampler.sampler)
    if type(sampler) not in (DefaultSampler, InfiniteSampler) or not getattr(sampler, "round_up", True):
        raise CheckpointError(
            f"the order of this {type(sampler).__name__} is not known for another layout: resume with {trained}"
        )
    sampler.rank, sampler.world_size = rank, trained.processes
    if isinstance(sampler, DefaultSampler):
        sampler.num_samples = math.ceil(trained.samples / trained.processes)
        sampler.total_size = sampler.num_samples * trained.processes
    else:
        sampler.skip(0)  # its iterator was made for another process
    # Batch samplers that group images keep lists of their own. The dataset is not copied.
    shared = {id(batch_sampler.sampler): sampler, id(sampler.dataset): sampler.dataset}
    own = copy.deepcopy(batch_sampler, shared)
    own.batch_size = trained.batch_size
    return own

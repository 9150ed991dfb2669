"""Samplers that draw the images of some classes more often."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Dataset, Sampler

from ssm_core.errors import ConfigError
from ssm_train.data.classes import are_weights, classes_of
from ssm_train.registry import DATA_SAMPLERS
from ssm_train.runtime.reproducibility import SampleIndex


@DATA_SAMPLERS.register_module()
class WeightedSampler(Sampler[int]):
    """Draws images with replacement, so that classes come in given proportions.

    An image is drawn with the probability of its class, divided by the number of images of that class. One with several
    classes has the sum of theirs. Every epoch draws anew, by the seed of the run and the epoch. An image that is drawn
    twice in an epoch is augmented in two ways.

    Args:
        dataset: a dataset of labelled images or of mmdet's instances, also in mmengine's wrappers.
        class_weights: how often every class is drawn beside the others, such as ``[1, 3]``; None draws all as often.
        num_samples: number of images in an epoch of all processes; the number of images of the dataset by default.
        seed: seed of the run; the Runner sets it.
        round_up: whether all processes get the same number of images, which may be one more each.

    Raises:
        ConfigError: the number of weights is another one than that of the classes, a weight is negative, a weight or
            their sum is not finite, ``num_samples`` is no whole number of 1 or more, or no image can be drawn.
    """

    def __init__(
        self,
        dataset: Dataset,
        class_weights: Sequence[float] | None = None,
        num_samples: int | None = None,
        seed: int | None = None,
        round_up: bool = True,
    ):
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        self.round_up = round_up
        self.num_samples = len(dataset) if num_samples is None else num_samples
        if type(self.num_samples) is not int or self.num_samples < 1:
            raise ConfigError(f"WeightedSampler's num_samples is a whole number of 1 or more, not {num_samples!r}")
        self._ends = _weights(dataset, class_weights).cumsum(0)
        if not self._ends[-1] > 0:
            raise ConfigError("WeightedSampler can draw no image: all weights of classes with images are 0")

    def __iter__(self) -> Iterator[SampleIndex]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        # Inverse sampling has no limit on the number of images, which torch.multinomial has.
        drawn = torch.rand(self._total, generator=generator, dtype=torch.float64) * self._ends[-1]
        indices = torch.searchsorted(self._ends, drawn, right=True).clamp(max=len(self._ends) - 1)
        seen: Counter[int] = Counter()
        for place, index in enumerate(indices.tolist()):
            if place % self.world_size == self.rank:
                # The same image has another key of its augmentation every time that it is drawn.
                yield SampleIndex(index, self.epoch + (seen[index] << 32))
            seen[index] += 1

    def __len__(self) -> int:
        return len(range(self.rank, self._total, self.world_size))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next pass belongs to."""
        self.epoch = epoch

    @property
    def _total(self) -> int:
        """Number of images of all processes."""
        size = self.world_size
        return math.ceil(self.num_samples / size) * size if self.round_up else self.num_samples


def check_sampler(settings: Mapping[str, Any]) -> None:
    """Check that a sampler of a config can be given its dataset, as mmengine gives it. Those of torch cannot.

    Args:
        settings: config of the sampler.

    Raises:
        ConfigError: it takes no dataset.
    """
    kind = settings["type"]
    found = DATA_SAMPLERS.get(kind) if isinstance(kind, str) else kind
    if isinstance(found, type) and issubclass(found, Sampler) and found.__module__.startswith("torch."):
        raise ConfigError(
            f"{found.__name__} is a sampler of torch, which takes no dataset from a config: use DefaultSampler, or "
            "WeightedSampler, which draws classes in given proportions"
        )


def _weights(dataset: Any, class_weights: Sequence[float] | None) -> torch.Tensor:  # [images] float64
    labels = [classes_of(dataset, index) for index in range(len(dataset))]
    count = len(dataset.metainfo["classes"])
    wanted = [1.0] * count if class_weights is None else list(class_weights)
    if not are_weights(wanted, count):
        raise ConfigError(
            f"WeightedSampler's class_weights are one finite number from 0 on for each of the {count} classes, and so "
            f"is their sum, not {wanted}"
        )
    numbers = Counter(label for own in labels for label in own)
    shares = [sum(wanted[label] / numbers[label] for label in own) for own in labels]
    return torch.tensor(shares, dtype=torch.float64)

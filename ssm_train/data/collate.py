"""Batches: how samples become one, and what a batch says about its samples.

A batch has one of two forms. :func:`collate_images` makes dictionaries of tensors, and mmengine makes lists of data
samples (``BaseDataElement``). Only this module tells them apart.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ssm_core.errors import ConfigError
from ssm_train.registry import FUNCTIONS

UNREADABLE_KEY = "unreadable"  # where a sample says what was wrong with the one that it replaces
DRAWN_KEY = "drawn"  # where a sample has the numbers of the rest of its augmentation


@FUNCTIONS.register_module()
def collate_images(samples: Sequence[Mapping[str, Any]] | dict[str, Any]) -> dict[str, Any]:
    """Stack samples; of their ``unreadable`` texts, keep those that are not empty, by the sample's place in the batch.

    A list with one text for every image would take longer to pin and to move to the device than the images.

    Args:
        samples: samples of an :class:`.ImageDataset`, or a batch that :meth:`.ImageArrays.load_batch` has made, which
            stays as it is.

    Returns:
        ``inputs`` [B, C, H, W], and ``data_samples`` with tensors [B] and the dictionary ``unreadable``. If the images
        are :class:`.Unfinished`, also ``drawn`` with arrays [B, ...], which stay on the host.

    Raises:
        ConfigError: some images are unfinished and others are not.
    """
    if isinstance(samples, dict):
        return samples
    drawn = [sample[DRAWN_KEY] for sample in samples if DRAWN_KEY in sample]
    if 0 < len(drawn) < len(samples):
        raise ConfigError("the datasets of one loader have transforms with on_device=True and others without it")
    batch = default_collate([_tensors_of(sample) for sample in samples])
    if drawn:
        batch["inputs"] = batch["inputs"].permute(0, 3, 1, 2)
        batch[DRAWN_KEY] = {key: _stacked([own[key] for own in drawn]) for key in drawn[0]}
    problems = (sample["data_samples"][UNREADABLE_KEY] for sample in samples)
    batch["data_samples"][UNREADABLE_KEY] = {place: problem for place, problem in enumerate(problems) if problem}
    return batch


def problems_of(data_samples: Mapping[str, Any]) -> Mapping[int, str]:
    """The problems in a batch of :func:`collate_images`, by the places of the samples that had to be replaced.

    Args:
        data_samples: the ``data_samples`` of the batch.

    Raises:
        ConfigError: another function collated the batch.
    """
    problems = data_samples[UNREADABLE_KEY]
    if not isinstance(problems, Mapping):
        raise ConfigError('a data loader of images needs collate_fn=dict(type="ssm_train.collate_images")')
    return problems


def data_samples_of(batch: Mapping[str, Any]) -> list[BaseDataElement]:
    """All of mmengine's data samples in a sample or a batch; an empty list if it has another form.

    Test-time augmentation gives several for each image.
    """
    found, rest = [], [batch.get("data_samples")]
    while rest:
        item = rest.pop()
        if isinstance(item, BaseDataElement):
            found.append(item)
        elif isinstance(item, list | tuple):
            rest += reversed(item)
    return found


def unreadable_in(batch: Mapping[str, Any]) -> list[str]:
    """What was wrong with each sample of a batch that had to be replaced; the batch may have either form.

    Raises:
        ConfigError: see :func:`problems_of`.
    """
    samples = batch["data_samples"]
    if isinstance(samples, Mapping):
        return list(problems_of(samples).values())
    problems = (sample.metainfo.get(UNREADABLE_KEY) for sample in data_samples_of(batch))
    return [problem for problem in problems if problem]


def names_in(batch: Mapping[str, Any], places: Sequence[int], dataset: Dataset) -> list[str]:
    """Names of some samples of a batch for messages; an empty list if they have none.

    Args:
        batch: a batch of either form.
        places: places of the samples in the batch.
        dataset: the dataset that the batch was loaded from.
    """
    samples = batch.get("data_samples")
    if isinstance(samples, Mapping) and "index" in samples and hasattr(dataset, "name"):
        return [dataset.name(int(samples["index"][place])) for place in places]
    if isinstance(samples, list):
        return [str(samples[place].get("img_path")) for place in places]
    return []


def split_batch(batch: Mapping[str, Any], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Divide a batch of either form into smaller ones, without copying tensors.

    Args:
        batch: the batch.
        sizes: numbers of samples of the smaller batches. Their sum is that of the batch.

    Raises:
        ValueError: the batch has another number of samples.
    """
    ends = list(itertools.accumulate(sizes))
    return [_part(batch, end - size, end, ends[-1]) for size, end in zip(sizes, ends, strict=True)]


def _part(value: Any, start: int, stop: int, samples: int, key: str = "") -> Any:
    if key == UNREADABLE_KEY and isinstance(value, Mapping):
        return {place - start: problem for place, problem in value.items() if start <= place < stop}
    if isinstance(value, Mapping):
        return {key: _part(item, start, stop, samples, key) for key, item in value.items()}
    if not isinstance(value, Tensor | np.ndarray | list | tuple) or len(value) != samples:
        raise ValueError(f"a batch of {samples} samples has {key!r}, which cannot be divided among them")
    return value[start:stop]


def _tensors_of(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What torch collates of a sample: all but texts and drawn numbers; unfinished images as [H, W, C].

    That is how decoders and resampling leave them in memory, so that they are copied as they are.
    """
    found = {key: value for key, value in sample.items() if key != DRAWN_KEY}
    found["data_samples"] = {key: value for key, value in sample["data_samples"].items() if key != UNREADABLE_KEY}
    if DRAWN_KEY in sample:
        found["inputs"] = found["inputs"].permute(1, 2, 0)
    return found


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Stack arrays, of which some may be shorter than others; these are filled up with zeros."""
    if len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    longest = max(map(len, arrays))
    return np.stack([np.pad(array, [(0, longest - len(array))] + [(0, 0)] * (array.ndim - 1)) for array in arrays])

"""Labelled images in mmengine's wrappers."""

from typing import Any

from torch.utils.data import Dataset

from ssm_train.data.datasets.base import ImageDataset
from ssm_train.data.wrapper import DatasetWrapper


class WrappedImages(DatasetWrapper):
    """Images of an :class:`.ImageDataset` in mmengine's wrappers, with the indices and names of the whole.

    The inner datasets replace their own unreadable images.

    Args:
        dataset: a ``RepeatDataset``, ``ConcatDataset`` or ``ClassBalancedDataset``.
    """

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample at an index."""
        sample = self.dataset[index]
        return {**sample, "data_samples": {**sample["data_samples"], "index": index}}

    def name(self, index: int) -> str:
        """The name of an image in messages."""
        return self.dataset.get_data_info(index)["img_path"]


def has_labelled_images(dataset: Dataset) -> bool:
    """Whether a dataset is an :class:`.ImageDataset`, or all datasets that it wraps are."""
    if isinstance(dataset, ImageDataset):
        return True
    inner = [dataset.dataset] if hasattr(dataset, "dataset") else getattr(dataset, "datasets", [])
    return bool(inner) and all(map(has_labelled_images, inner))

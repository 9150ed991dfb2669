"""Datasets around another dataset: what they have in common, and what is within them."""

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset


class DatasetWrapper(Dataset):
    """A map-style dataset around another one, whose length and attributes it takes over.

    Args:
        dataset: the inner dataset.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getattr__(self, name: str) -> Any:
        # Dunder names must not be passed on. DataLoader would call the inner dataset's __getitems__ and so avoid the
        # wrapper, and unpickling asks for __setstate__ before the inner dataset exists.
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)


def bare_datasets(settings: Mapping[str, Any]) -> list[Any]:
    """The configs of the datasets that are within wrappers, such as one that repeats or joins others.

    Args:
        settings: the config of a dataset, which stands for itself if it is no wrapper.
    """
    within = [settings["dataset"]] if "dataset" in settings else settings.get("datasets") or ()
    return [bare for part in within for bare in bare_datasets(part)] or [settings]

"""What datasets around another dataset have in common."""

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

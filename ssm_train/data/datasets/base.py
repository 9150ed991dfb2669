"""What datasets of labelled images have in common."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.augmentation import Unfinished
from ssm_train.data.classes import check_classes
from ssm_train.data.collate import DRAWN_KEY
from ssm_train.data.images import UNREADABLE, reason
from ssm_train.registry import SCOPE, TRANSFORMS

Transform = Callable[[Image.Image | np.ndarray], Tensor | Unfinished]


class ImageDataset(Dataset):
    """A list of labelled images.

    Args:
        labels: number of the class of every image, or a list of numbers where an image can have several.
        classes: names of the classes.
        transform: turns what :meth:`load` gives into a tensor [C, H, W], or into an :class:`.Unfinished` image. It is a
            callable or a config of the ``TRANSFORMS`` registry.
        unreadable: what to do with an image that cannot be decoded. ``"skip"`` takes the next readable image instead,
            always the same one, and says so in the sample. Training counts such samples, and metrics leave them out.
            ``"raise"`` stops.

    Raises:
        ConfigError: ``unreadable`` is something else, or ``classes`` are no names, or name a class twice.
    """

    def __init__(
        self,
        labels: list[int] | list[list[int]],
        classes: list[str],
        transform: dict | Transform,
        unreadable: Literal["skip", "raise"] = "skip",
    ):
        if unreadable not in ("skip", "raise"):
            raise ConfigError(f"a dataset's unreadable is 'skip' or 'raise', not {unreadable!r}")
        self.labels = labels
        self.classes = check_classes(classes)
        self.transform = _built(transform) if isinstance(transform, dict) else transform
        self.unreadable = unreadable

    @property
    def metainfo(self) -> dict:
        """The names of the classes, which mmengine passes to metrics and checkpoints."""
        return {"classes": list(self.classes)}

    @abstractmethod
    def load(self, index: int) -> Image.Image | np.ndarray:
        """Decode an image: in mode L or RGB, or as an array [H, W, C] from 0 to 255 of other channels.

        Raises:
            OSError: the image is unreadable; any other of :data:`~ssm_train.data.images.UNREADABLE` says the same.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """The name of an image in messages: its file, or its place in a file."""

    def full_init(self) -> None:
        """Do nothing, since the list is complete. mmengine's wrappers of datasets call this."""

    def get_data_info(self, index: int) -> dict:
        """Name and label of an image, for mmengine's wrappers of datasets."""
        return {"img_path": self.name(index), "label": self.labels[index]}

    def get_cat_ids(self, index: int) -> list[int]:
        """The classes of an image, which mmengine's ``ClassBalancedDataset`` counts."""
        label = self.labels[index]
        return label if isinstance(label, list) else [label]

    def renumber(self, classes: Sequence[str]) -> None:
        """Number the classes in another order.

        Args:
            classes: the names of the classes in that order.
        """
        number_of = {name: number for number, name in enumerate(classes)}
        new = [number_of[name] for name in self.classes]
        self.labels = [
            sorted(new[number] for number in label) if isinstance(label, list) else new[label] for label in self.labels
        ]
        self.classes = list(classes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        """The sample at an index.

        Raises:
            ConfigError: the transform is for other images.
            DataError: the image is unreadable and ``unreadable`` is ``"raise"``, or no image can be read.
            IndexError: the dataset has no such index. This ends a loop over the dataset.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"there is no image {index} among {len(self)}")
        image, used, problem = self._load_or_replace(index)
        sample = {"label": self._target(used), "index": index, "unreadable": problem}
        try:
            inputs = self.transform(image)
        except ConfigError as error:
            raise ConfigError(f"{self.name(used)}: {error}") from error
        if isinstance(inputs, Unfinished):
            return {"inputs": inputs.pixels, DRAWN_KEY: inputs.drawn, "data_samples": sample}
        return {"inputs": inputs, "data_samples": sample}

    def _target(self, index: int) -> int | Tensor:
        """The label of an image; zeros and ones [classes] where it can have several."""
        label = self.labels[index]
        if not isinstance(label, list):
            return label
        target = torch.zeros(len(self.classes))
        target[label] = 1
        return target

    def _load_or_replace(self, index: int) -> tuple[Image.Image | np.ndarray, int, str]:
        problem = ""
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            try:
                return self.load(candidate), candidate, problem
            except UNREADABLE as error:
                if self.unreadable == "raise":
                    raise DataError(f"cannot read the image {self.name(candidate)}: {reason(error)}") from error
                problem = problem or f"{self.name(candidate)} ({reason(error)})"
        raise DataError(f"not one of {len(self)} images can be read, the first being {problem}")


def _built(transform: dict) -> Transform:
    """Build a transform. Our names are ours, also while mmengine looks up names in the scope of another library."""
    kind = transform.get("type")
    ours = isinstance(kind, str) and TRANSFORMS.get(kind) is not None
    return TRANSFORMS.build({"_scope_": SCOPE, **transform} if ours else transform)

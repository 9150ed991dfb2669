"""What the classification datasets have in common."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.images import UNREADABLE, reason
from ssm_train.registry import TRANSFORMS

Transform = Callable[[Image.Image], Tensor]


class ImageDataset(Dataset):
    """A list of labelled images.

    Args:
        labels: class number of every image.
        classes: names of the classes.
        transform: turns a PIL image into a tensor [C, H, W]; a config of the ``TRANSFORMS`` registry or a callable.
        unreadable: what to do with an image that cannot be decoded. ``"skip"`` puts the next readable one in its place
            (always the same one) and says so in the sample, whereupon training counts it and metrics leave it out;
            ``"raise"`` stops.
    """

    def __init__(
        self,
        labels: list[int],
        classes: list[str],
        transform: dict | Transform,
        unreadable: Literal["skip", "raise"] = "skip",
    ):
        if unreadable not in ("skip", "raise"):
            raise ConfigError(f"a dataset's unreadable is 'skip' or 'raise', not {unreadable!r}")
        self.labels = labels
        self.classes = classes
        self.transform = TRANSFORMS.build(transform) if isinstance(transform, dict) else transform
        self.unreadable = unreadable

    @property
    def metainfo(self) -> dict:
        """What mmengine passes to metrics and checkpoints."""
        return {"classes": list(self.classes)}

    @abstractmethod
    def load(self, index: int) -> Image.Image:
        """Decode an image. An exception of :data:`~ssm_train.data.images.UNREADABLE` means that it is unreadable."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What a message calls an image: its file, or its place in one."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no image {index} among {len(self)}")  # ends a loop over the dataset
        image, used, problem = self._load_or_replace(index)
        sample = {"label": self.labels[used], "index": index, "unreadable": problem}
        return {"inputs": self.transform(image), "data_samples": sample}

    def _load_or_replace(self, index: int) -> tuple[Image.Image, int, str]:
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

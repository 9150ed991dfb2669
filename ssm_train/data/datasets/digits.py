"""The handwritten digits that come with scikit-learn: 1,797 grey 8×8 images (Alpaydin and Kaynak 1998)."""

import numpy as np
from PIL import Image

from ssm_core.errors import ConfigError, MissingPackageError
from ssm_train.data.datasets.base import ImageDataset, Transform
from ssm_train.registry import DATASETS


@DATASETS.register_module()
class Digits(ImageDataset):
    """scikit-learn's digits, enlarged. A fixed stratified split gives four fifths of every class to training.

    Args:
        transform: see :class:`ImageDataset`.
        split: ``"train"`` (1,438 images) or ``"test"`` (359).
        size: side of the enlarged images in pixels.

    Raises:
        ConfigError: there is no such split.
        MissingPackageError: scikit-learn is not installed.
    """

    def __init__(self, transform: dict | Transform, split: str = "train", size: int = 32):
        if split not in ("train", "test"):
            raise ConfigError(f"digits have the splits train and test, not {split!r}")
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise MissingPackageError("scikit-learn", "the digits dataset") from None
        data = load_digits()
        self.split = split
        self.indices = split_indices(data.target)[split]
        images = (data.images[self.indices] * (255 / 16)).round().astype(np.uint8)
        self.images = [Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC) for image in images]
        super().__init__(data.target[self.indices].tolist(), [str(d) for d in range(10)], transform, unreadable="raise")

    def load(self, index: int) -> Image.Image:
        """The image in mode L."""
        return self.images[index]

    def name(self, index: int) -> str:
        """The index of the image in scikit-learn's array."""
        return f"digit {self.indices[index]}"


def split_indices(labels: np.ndarray) -> dict[str, np.ndarray]:
    """A stratified split, 80 % to 20 %, that never changes, because NumPy has frozen ``RandomState``.

    Args:
        labels: [n] class of every sample.

    Returns:
        Indices of the samples of ``"train"`` and of ``"test"``, in rising order.
    """
    generator = np.random.RandomState(0)
    parts: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        held_out = round(len(members) / 5)
        parts["test"].append(members[:held_out])
        parts["train"].append(members[held_out:])
    return {name: np.sort(np.concatenate(part)) for name, part in parts.items()}

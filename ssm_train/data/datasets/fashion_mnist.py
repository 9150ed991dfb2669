"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 70,000 grey 28×28 images of clothes in ten classes."""

from pathlib import Path

from PIL import Image

from ssm_core.errors import ConfigError, DataError
from ssm_train.data import missing
from ssm_train.data.datasets.base import ImageDataset, Transform
from ssm_train.data.datasets.idx import read_idx
from ssm_train.registry import DATASETS

CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
FILES = missing.FASHION_MNIST


@DATASETS.register_module()
class FashionMNIST(ImageDataset):
    """Fashion-MNIST, or other data with labels 0 to 9 in files of MNIST's names and format.

    Args:
        transform: see :class:`ImageDataset`.
        root: folder of the four ``.gz`` files.
        split: ``"train"`` or ``"test"``.

    Raises:
        ConfigError: there is no such split.
        DataError: a file is missing or damaged, or the labels do not belong to the images.
    """

    def __init__(self, transform: dict | Transform, root: str = "data/fashion-mnist", split: str = "train"):
        if split not in FILES:
            raise ConfigError(f"Fashion-MNIST has the splits train and test, not {split!r}")
        images, labels = (Path(root) / name for name in FILES[split])
        for path in (images, labels):
            if not path.exists():
                raise missing.no_fashion_mnist(path)
        self.images = read_idx(images, dimensions=3)
        self.file = images
        numbers = read_idx(labels, dimensions=1)
        if len(numbers) != len(self.images) or numbers.max(initial=0) >= len(CLASSES):
            raise DataError(
                f"{labels} does not belong to {images.name}: {len(numbers)} labels up to {numbers.max(initial=0)} "
                f"for {len(self.images)} images of {len(CLASSES)} classes"
            )
        super().__init__(numbers.tolist(), CLASSES, transform, unreadable="raise")

    def load(self, index: int) -> Image.Image:
        """The image in mode L."""
        return Image.fromarray(self.images[index])

    def name(self, index: int) -> str:
        """The file and the index of the image in it."""
        return f"{self.file}[{index}]"

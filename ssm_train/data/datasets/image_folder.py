"""Images in one folder for each class."""

import os
from pathlib import Path
from typing import Literal

from PIL import Image

from ssm_core.errors import DataError
from ssm_train.data.datasets.base import ImageDataset, Transform
from ssm_train.data.images import EXTENSIONS, Mode, decode
from ssm_train.registry import DATASETS


@DATASETS.register_module()
class ImageFolder(ImageDataset):
    """Images in ``root/split/<class>/`` and its sub-folders; classes are numbered in the order of their names.

    Args:
        transform: see :class:`ImageDataset`.
        root: the dataset's folder.
        split: folder below ``root``, such as ``"train"`` or ``"val"``.
        mode: Pillow's mode that images are converted to: ``"RGB"``, or ``"L"`` for one channel.
        unreadable: see :class:`ImageDataset`.

    Raises:
        DataError: the folder is missing, or has no class folders or no images.
    """

    how_to_make = "put your images there, one folder for each class"

    def __init__(
        self,
        transform: dict | Transform,
        root: str,
        split: str = "train",
        mode: Mode = "RGB",
        unreadable: Literal["skip", "raise"] = "skip",
    ):
        folder = Path(root) / split
        if not folder.is_dir():
            raise DataError(f"there is no dataset folder {folder}; {self.how_to_make}")
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        if not classes:
            raise DataError(f"{folder} has no class folders; {self.how_to_make}")
        self.mode = mode
        self.paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            found = _images(folder / name)
            self.paths += found
            labels += [label] * len(found)
        if not labels:
            raise DataError(
                f"{folder} has {len(classes)} class folders and no images ({', '.join(EXTENSIONS)}); {self.how_to_make}"
            )
        super().__init__(labels, classes, transform, unreadable)

    def load(self, index: int) -> Image.Image:
        """Decode the file and turn the image upright."""
        return decode(self.paths[index], self.mode)

    def name(self, index: int) -> str:
        """The path of the file."""
        return self.paths[index]


@DATASETS.register_module()
class ImageNet(ImageFolder):
    """ImageNet-1k (ILSVRC2012) in ``root/{train,val}/<wnid>/*.JPEG``.

    Args:
        transform: see :class:`ImageDataset`.
        root: the dataset's folder.
        split: ``"train"`` or ``"val"``.
        unreadable: see :class:`ImageDataset`.

    Raises:
        DataError: the folder is missing, or has another number of classes than 1000.
    """

    how_to_make = "arrange a downloaded ILSVRC2012 with `python tools/prepare_data.py imagenet --from FOLDER`"

    def __init__(
        self,
        transform: dict | Transform,
        root: str = "data/imagenet",
        split: Literal["train", "val"] = "train",
        unreadable: Literal["skip", "raise"] = "skip",
    ):
        super().__init__(transform, root, split, "RGB", unreadable)
        if len(self.classes) != 1000:
            raise DataError(
                f"{Path(root) / split} has {len(self.classes)} of ImageNet's 1000 classes; {self.how_to_make}"
            )


def _images(folder: Path) -> list[str]:
    found = []
    for parent, _, names in os.walk(folder):
        found += [os.path.join(parent, name) for name in names if name.lower().endswith(EXTENSIONS)]
    return sorted(found)

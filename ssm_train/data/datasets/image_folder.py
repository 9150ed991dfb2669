"""Images in one folder for each class."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mmengine.logging import print_log

from ssm_core.errors import DataError
from ssm_train.data import missing
from ssm_train.data.datasets.base import Transform
from ssm_train.data.datasets.folds import Fold
from ssm_train.data.datasets.image_files import ImageFiles
from ssm_train.data.images import EXTENSIONS, Mode, endings, files_below, is_data
from ssm_train.registry import DATASETS


@DATASETS.register_module()
class ImageFolder(ImageFiles):
    """Images in ``root/split/<class>/`` and its sub-folders; classes are numbered in the order of their names.

    Files and folders whose names begin with a dot are no data. Links are followed. A class without images is warned of.

    Args:
        transform: see :class:`ImageDataset`.
        root: the dataset's folder.
        split: folder below ``root``, such as ``"train"`` or ``"val"``.
        mode: Pillow's mode that images are converted to: ``"RGB"``, or ``"L"`` for one channel.
        unreadable: see :class:`ImageDataset`.
        channels: number of channels of images that are no colours, in place of ``mode``: 2, 4 or more, see
            :func:`.images.decode_channels`. ``transform`` then needs as many means.
        value_range: the values of black and white in the files, such as ``(0, 4095)`` for a camera of 12 bits. By
            default the type of the values says it, see :func:`.pixels.to_levels`.
        fold: the part of the images to use, such as ``dict(of=5, number=0, part="train")``, see :func:`.in_fold`; None
            uses all.

    Raises:
        DataError: the folder is missing, or has no class folders or no images.
        ConfigError: ``channels``, ``value_range`` or ``fold`` is wrong.
    """

    how_to_make = missing.HOW_TO_MAKE["ImageFolder"]

    def __init__(
        self,
        transform: dict | Transform,
        root: str,
        split: str = "train",
        mode: Mode = "RGB",
        unreadable: Literal["skip", "raise"] = "skip",
        channels: int | None = None,
        value_range: Sequence[float] | None = None,
        fold: Fold | None = None,
    ):
        folder = Path(root) / split
        if not folder.is_dir():
            raise missing.no_class_folders(folder, self.how_to_make)
        try:
            classes = sorted(entry.name for entry in os.scandir(folder) if is_data(entry.name) and entry.is_dir())
        except OSError as error:  # such as a link that leads to itself
            raise DataError(f"cannot list the classes: {error.filename or folder}: {error.strerror}") from error
        if not classes:
            raise DataError(f"{folder} has no class folders; {self.how_to_make}")
        paths: list[str] = []
        labels: list[int] = []
        empty: dict[str, str] = {}
        for label, name in enumerate(classes):
            files = list(files_below(folder / name))
            found = sorted(path for path in files if path.lower().endswith(EXTENSIONS))
            if not found:
                empty[name] = endings(files) or "no files"
            paths += found
            labels += [label] * len(found)
        if not labels:
            first = next(iter(empty))
            raise DataError(
                f"{folder} has {len(classes)} class folders and no images ({', '.join(EXTENSIONS)}); "
                f"{first} has {empty[first]}; {self.how_to_make}"
            )
        if empty:
            listed = ", ".join(f"{name} ({found})" for name, found in list(empty.items())[:5])
            print_log(
                f"{folder} has {len(empty)} classes without images: {listed}", logger="current", level=logging.WARNING
            )
        super().__init__(paths, labels, classes, transform, mode, unreadable, channels, value_range, fold)


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

    how_to_make = missing.HOW_TO_MAKE["ImageNet"]

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

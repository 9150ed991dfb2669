"""Random images, for measuring the speed of training without data, or without the time that reading data takes."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ssm_core.errors import ConfigError
from ssm_train.registry import DATASETS

POOL = 64  # different images


@DATASETS.register_module()
class SyntheticImages(Dataset):
    """Noise with random labels. Samples have the form of :class:`ImageDataset`, and are the same in every run.

    Args:
        length: number of images in an epoch; they repeat after 64.
        size: side of the images in pixels.
        channels: number of channels of an image.
        classes: number of classes.

    Raises:
        ConfigError: one of the arguments is below 1.
    """

    def __init__(self, length: int = 1_281_167, size: int = 224, channels: int = 3, classes: int = 1000):
        if min(length, size, channels, classes) < 1:
            numbers = (length, size, channels, classes)
            raise ConfigError(f"synthetic images need length, size, channels and classes from 1 on, not {numbers}")
        generator = torch.Generator().manual_seed(0)
        self.length = length
        self.images: Tensor = torch.randn(POOL, channels, size, size, generator=generator)
        self.labels = torch.randint(classes, (POOL,), generator=generator).tolist()
        self.metainfo = {"classes": [str(c) for c in range(classes)]}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        sample = {"label": self.labels[index % POOL], "index": index, "unreadable": ""}
        return {"inputs": self.images[index % POOL], "data_samples": sample}

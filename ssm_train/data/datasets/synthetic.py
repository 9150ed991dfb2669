"""Random images, for measuring the speed of training where no data are, or where reading them would set the pace."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ssm_core.errors import ConfigError
from ssm_train.registry import DATASETS

POOL = 64


@DATASETS.register_module()
class SyntheticImages(Dataset):
    """Noise with labels that mean nothing; samples are like those of :class:`ImageDataset`, and always the same.

    Args:
        length: images of an epoch; they repeat after 64.
        size: side in pixels.
        channels: channels of an image.
        classes: number of classes.
    """

    def __init__(self, length: int = 1_281_167, size: int = 224, channels: int = 3, classes: int = 1000):
        if min(length, size, channels, classes) < 1:
            raise ConfigError(f"synthetic images need positive sizes, got {(length, size, channels, classes)}")
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

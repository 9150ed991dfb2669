"""Image classification datasets.

A sample is ``{"inputs": Tensor [C, H, W], "data_samples": {"label": int, "index": int, "unreadable": str}}``;
:func:`collate_images` makes a batch of samples.
"""

from ssm_core.engine.datasets.base import ImageDataset
from ssm_core.engine.datasets.collate import collate_images, problems_of
from ssm_core.engine.datasets.digits import Digits
from ssm_core.engine.datasets.fashion_mnist import FashionMNIST
from ssm_core.engine.datasets.image_folder import ImageFolder, ImageNet
from ssm_core.engine.datasets.synthetic import SyntheticImages

__all__ = [
    "Digits",
    "FashionMNIST",
    "ImageDataset",
    "ImageFolder",
    "ImageNet",
    "SyntheticImages",
    "collate_images",
    "problems_of",
]

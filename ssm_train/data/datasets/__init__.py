"""Datasets of labelled images.

A sample is ``{"inputs": Tensor [C, H, W], "data_samples": {"label": int, "index": int, "unreadable": str}}``. The text
``unreadable`` is empty, or says what was wrong with the image that the sample replaces. :func:`collate_images` makes a
batch of samples.
"""

from ssm_train.data.collate import collate_images, problems_of
from ssm_train.data.datasets.base import ImageDataset
from ssm_train.data.datasets.digits import Digits
from ssm_train.data.datasets.fashion_mnist import FashionMNIST
from ssm_train.data.datasets.image_folder import ImageFolder, ImageNet
from ssm_train.data.datasets.synthetic import SyntheticImages

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

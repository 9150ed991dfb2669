"""Datasets of labelled images.

A sample is ``{"inputs": Tensor [C, H, W], "data_samples": {"label": int, "index": int, "unreadable": str}}``. Where an
image can have several classes, its label is a tensor [classes] of zeros and ones. The text
``unreadable`` is empty, or says what was wrong with the image that the sample replaces. :func:`collate_images` makes a
batch of samples.
"""

from ssm_train.data.collate import collate_images, problems_of
from ssm_train.data.datasets.base import ImageDataset
from ssm_train.data.datasets.digits import Digits
from ssm_train.data.datasets.fashion_mnist import FashionMNIST
from ssm_train.data.datasets.huggingface_images import HuggingFaceImages
from ssm_train.data.datasets.image_arrays import ImageArrays
from ssm_train.data.datasets.image_folder import ImageFolder, ImageNet
from ssm_train.data.datasets.image_list import ImageList
from ssm_train.data.datasets.synthetic import SyntheticImages
from ssm_train.data.datasets.webdataset_images import WebDatasetImages

__all__ = [
    "Digits",
    "FashionMNIST",
    "HuggingFaceImages",
    "ImageArrays",
    "ImageDataset",
    "ImageFolder",
    "ImageList",
    "ImageNet",
    "SyntheticImages",
    "WebDatasetImages",
    "collate_images",
    "problems_of",
]

"""Photographs for backgrounds, which come with scikit-image and scikit-learn."""

from collections.abc import Mapping

import numpy as np

from ssm_core.errors import MissingPackageError

# The two splits share no photo. Names that end in .jpg are scikit-learn's photos, all others scikit-image's.
PHOTOS: Mapping[str, tuple[str, ...]] = {
    "train": (
        "astronaut", "brick", "camera", "china.jpg", "coffee", "coins", "grass", "hubble_deep_field", "retina",
        "immunohistochemistry",
    ),
    "val": ("chelsea", "flower.jpg", "gravel", "moon", "rocket"),
}  # fmt: skip


def load_photo(name: str) -> np.ndarray:  # [H, W, 3] uint8
    """Read one photo of :data:`PHOTOS`. Grey photos get three equal channels.

    Raises:
        MissingPackageError: the package that has the photo is not installed.
    """
    try:
        if name.endswith(".jpg"):
            from sklearn.datasets import load_sample_image

            image = load_sample_image(name)
        else:
            from skimage import data

            image = getattr(data, name)()
    except ImportError as error:
        package = {"sklearn": "scikit-learn", "skimage": "scikit-image"}.get(str(error.name).split(".")[0], "Pillow")
        raise MissingPackageError(package, "the composited set", "seg") from None
    return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image

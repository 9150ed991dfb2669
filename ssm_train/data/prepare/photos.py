"""Photographs that come with scikit-image and scikit-learn."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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
    with _explained():
        if name.endswith(".jpg"):
            from sklearn.datasets import load_sample_image

            image = load_sample_image(name)
        else:
            from skimage import data

            image = getattr(data, name)()
    return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image


def load_unseen_photo() -> np.ndarray:  # [H, W, 3] uint8
    """Read a photo of a motorcycle, the left one of a stereo pair of scikit-image. No data of this project has it.

    Raises:
        MissingPackageError: scikit-image is not installed.
    """
    with _explained():
        from skimage import data

        return data.stereo_motorcycle()[0]


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        package = {"sklearn": "scikit-learn", "skimage": "scikit-image"}.get(str(error.name).split(".")[0], "Pillow")
        raise MissingPackageError(package, "data made of photographs", "seg") from None

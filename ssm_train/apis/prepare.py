"""Datasets put where the configs look for them: every dataset's function, by the name that tree-ssm prepare-data has.

Each takes the folder of all datasets and that of the downloaded files (None if there is none), and returns sentences
about what is there. It raises :class:`~ssm_core.errors.DataError` if something is missing or wrong.
"""

from collections.abc import Callable
from pathlib import Path

from ssm_core.errors import ConfigError
from ssm_train.data.prepare.ade20k import prepare_ade20k
from ssm_train.data.prepare.cityscapes import prepare_cityscapes
from ssm_train.data.prepare.coco import prepare_coco
from ssm_train.data.prepare.composite import prepare_composite
from ssm_train.data.prepare.fashion_mnist import prepare_fashion_mnist
from ssm_train.data.prepare.imagenet import prepare_imagenet
from ssm_train.data.prepare.largest_item import prepare_largest_item
from ssm_train.data.prepare.nuclei import prepare_nuclei
from ssm_train.data.prepare.packed import pack_shards, pack_table, write_digits
from ssm_train.data.prepare.photo_crops import prepare_photos

__all__ = ["ARRANGED", "pack_shards", "prepare_composite", "prepare_digits", "prepare_nuclei", "prepare_photos"]


def prepare_digits(root: Path, source: Path | None, images: bool) -> str:
    """Nothing, unless images are asked for: scikit-learn has them.

    Args:
        root: folder of all datasets.
        source: folder of the downloaded files.
        images: whether to write an image folder.

    Raises:
        ConfigError: there is a folder, although nothing has to be downloaded.
    """
    if source is not None:
        raise ConfigError("--from is for data that you downloaded, and scikit-learn brings the digits along")
    if images:
        return write_digits(root)
    return "digits: nothing to prepare, scikit-learn brings them along"


# Those without options of their own.
ARRANGED: dict[str, Callable[[Path, Path | None], str]] = {
    "fashion-mnist": prepare_fashion_mnist,
    "largest-item": prepare_largest_item,
    "imagenet": prepare_imagenet,
    "coco": prepare_coco,
    "ade20k": prepare_ade20k,
    "cityscapes": prepare_cityscapes,
    "huggingface": pack_table,
}

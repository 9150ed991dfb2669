"""The errors about data that are not there. They need no import, so that they can be raised before torch is there."""

from pathlib import Path

from ssm_core.errors import DataError

HOW_TO_MAKE = {
    "ImageFolder": "put your images there, one folder for each class",
    "ImageNet": "arrange a downloaded ILSVRC2012 with `tree-ssm prepare-data imagenet --from FOLDER`",
}
FASHION_MNIST = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_HELP = "`tree-ssm prepare-data --help` tells how to make or arrange it"


def no_class_folders(folder: Path, how_to_make: str) -> DataError:
    """The error about a folder of classes.

    Args:
        folder: what is missing.
        how_to_make: what the user can do, such as one of ``HOW_TO_MAKE``.
    """
    return DataError(f"there is no dataset folder {folder}; {how_to_make}")


def no_fashion_mnist(path: Path) -> DataError:
    """The error about a file of Fashion-MNIST."""
    return DataError(
        f"there is no Fashion-MNIST: {path} does not exist; make it with `tree-ssm prepare-data fashion-mnist`"
    )


def no_annotation_file(path: str | Path) -> DataError:
    """The error about an annotation file of COCO's form."""
    return DataError(f"there is no annotation file {path}; {_HELP}")


def no_folder(folder: str, key: str) -> DataError:
    """The error about the folder that a config names by a key, of a dataset that is not ours."""
    return DataError(f"there is no dataset folder {folder} ({key}); {_HELP}")

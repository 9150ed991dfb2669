"""Fashion-MNIST: copy it from where a package manager or the user put it, and verify it."""

from collections import Counter
from pathlib import Path

import numpy as np

from ssm_core.errors import DataError
from ssm_train.data.datasets.fashion_mnist import CLASSES, FILES
from ssm_train.data.datasets.idx import read_idx
from ssm_train.runtime.files import write_atomically

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SIZES = {"train": 60_000, "test": 10_000}


def prepare_fashion_mnist(root: Path, source: Path | None) -> str:
    """Copy the four files to ``root/fashion-mnist`` unless they are there, and verify them.

    Args:
        root: folder of all datasets.
        source: folder of the four files; None to look in ``root`` and where Debian's package puts them.

    Returns:
        A line on both splits.

    Raises:
        DataError: a file is missing, damaged or not of Fashion-MNIST.
    """
    target = root / "fashion-mnist"
    names = [name for pair in FILES.values() for name in pair]
    folders = [source] if source is not None else [target, DEBIAN_FOLDER]
    found = next((folder for folder in folders if all((folder / name).is_file() for name in names)), None)
    if found is None:
        raise DataError(
            f"there is no Fashion-MNIST in {' or '.join(map(str, folders))}: install the Debian package "
            f"dataset-fashion-mnist, or name the folder that has {names[0]} and the three other files with --from"
        )
    counts = [_verify(found, split) for split in FILES]
    if found.resolve() != target.resolve():
        for name in names:
            content = (found / name).read_bytes()
            write_atomically(target / name, lambda file, content=content: file.write(content))
    return f"{target}: {' and '.join(f'{n} {split} images' for n, split in zip(counts, FILES, strict=True))}, verified"


def check_belonging(folder: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Raise unless there are images of Fashion-MNIST's size, and a label of one of its classes for each.

    Args:
        folder: of the files, for the message.
        split: ``train`` or ``test``.
        images: [N, H, W].
        labels: [M].

    Raises:
        DataError: it is otherwise.
    """
    if not len(images) or len(images) != len(labels) or images.shape[1:] != (28, 28) or labels.max() >= len(CLASSES):
        raise DataError(
            f"{folder / FILES[split][1]} does not belong to {FILES[split][0]}: {len(labels)} labels up to "
            f"{labels.max(initial=0)} for {len(images)} images of {images.shape[1:]}, and Fashion-MNIST has "
            f"{len(CLASSES)} classes and images of (28, 28)"
        )


def _verify(folder: Path, split: str) -> int:
    images, labels = (read_idx(folder / name, dimensions=d) for name, d in zip(FILES[split], (3, 1), strict=True))
    expected = SIZES[split]
    if len(images) != expected or len(labels) != expected or images.shape[1:] != (28, 28):
        raise DataError(
            f"{folder / FILES[split][0]} holds {len(images)} images of {images.shape[1:]} and {len(labels)} labels, "
            f"but Fashion-MNIST has {expected} of (28, 28)"
        )
    wrong = [CLASSES[label] for label, n in Counter(labels.tolist()).items() if n != expected // len(CLASSES)]
    if wrong:
        raise DataError(f"{folder / FILES[split][1]} has another number of {wrong[0]} images than Fashion-MNIST")
    return expected

"""Crops of photographs. The class of a crop is the photograph that it was cut from.

The photographs come with scikit-image and scikit-learn. The upper part of each is for training and the lower part for
validation, with a margin between them, so that the two splits share no pixel. Most subjects reach into both parts.
Crops of one part overlap. The number of independent images is therefore that of the photographs, however many crops
there are.

A third of the training crops is made grey, and the colours of all are changed, because a network could otherwise tell
most photographs apart by their colours alone. Validation crops keep their colours. Every random number is a function of
the seed, the split and the number of the crop, as in :mod:`.composite`.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from ssm_core.errors import ConfigError, DataError
from ssm_core.writing import explained
from ssm_train.data.prepare.photos import PHOTOS, load_photo
from ssm_train.data.prepare.pictures import write_picture
from ssm_train.data.prepare.processes import for_each, usable_cores
from ssm_train.runtime.files import make_folder

CLASSES: dict[str, str] = {
    Path(name).stem: name for name in sorted(name for names in PHOTOS.values() for name in names)
}
"""The name of every class, in order, to the name of its photograph."""

MIN_SIZE = 32
PARTS = {"train": (0.0, 0.62), "val": (0.66, 1.0)}  # of the height of every photograph, from the top
_SHARE = (0.4, 1.0)  # of the height and of the width of a part that a crop takes
_STRETCH = 1.5  # largest ratio of the sides of a crop, which is then made square
_GREY = 1 / 3  # share of the training crops that lose their colours
_COLOUR = (0.5, 1.0)  # factor of each colour channel of a training crop


def part_of(photo: np.ndarray, split: str) -> np.ndarray:
    """The part of a photograph that one split is cut from.

    Args:
        photo: ``[H, W, 3]``.
        split: ``"train"`` or ``"val"``.

    Returns:
        A view of the photograph, ``[h, w, 3]``.
    """
    first, last = (round(share * len(photo)) for share in PARTS[split])
    return photo[first:last]


def crop(part: Image.Image, size: int, draw: np.random.RandomState) -> Image.Image:
    """Cut a random rectangle from a part of a photograph, and make it square.

    Args:
        part: what to cut from. No pixel outside of it is read.
        size: side of the result in pixels.
        draw: the random numbers.
    """
    width, height = (max(round(side * draw.uniform(*_SHARE)), 1) for side in part.size)
    width, height = min(width, round(height * _STRETCH)), min(height, round(width * _STRETCH))
    left, top = draw.randint(part.width - width + 1), draw.randint(part.height - height + 1)
    return part.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + width, top + height))


def recoloured(image: Image.Image, draw: np.random.RandomState) -> Image.Image:
    """Change the colours of a training crop, and take them away from a third of all crops."""
    if draw.uniform() < _GREY:
        image = image.convert("L").convert("RGB")
    return Image.fromarray((np.asarray(image) * draw.uniform(*_COLOUR, size=3)).round().astype(np.uint8))


def prepare_photos(
    root: Path,
    source: Path | None,
    size: int = 256,
    train_count: int = 9000,
    val_count: int = 600,
    seed: int = 0,
    processes: int | None = None,
) -> str:
    """Write ``root/photos/{train,val}/<photograph>/<number>.jpg``, which :class:`.ImageFolder` reads.

    Args:
        root: folder of all datasets.
        source: folder of downloaded files; must be None, because nothing has to be downloaded.
        size: side of the crops in pixels.
        train_count: number of training crops. The classes share them evenly.
        val_count: number of validation crops.
        seed: seed of all random numbers.
        processes: number of processes that make the crops; None for one a core. The result does not depend on it.

    Returns:
        A line on each split.

    Raises:
        ConfigError: a number is out of its range, or there is a folder, although nothing has to be downloaded.
        DataError: the folder of a split has classes of another data set.
        MissingPackageError: scikit-image or scikit-learn is not installed.
        WriteError: a file cannot be written.
    """
    if source is not None:
        raise ConfigError("--from is for data that you downloaded, and the photos come with installed packages")
    processes = usable_cores() if processes is None else processes
    if size < MIN_SIZE or min(train_count, val_count) < len(CLASSES) or processes < 1 or seed < 0:
        raise ConfigError(
            f"the photos take --size from {MIN_SIZE} on, counts from {len(CLASSES)} on (a crop of every photo), "
            f"--processes from 1 on and a --seed from 0 on, not {size}, {train_count} and {val_count}, {processes}, "
            f"{seed}"
        )
    photos = [load_photo(name) for name in CLASSES.values()]
    counts = {"train": train_count, "val": val_count}
    return "\n".join(
        _write_split(root / "photos" / split, photos, split, count, size, (seed, stream), processes)
        for stream, (split, count) in enumerate(counts.items())
    )


def _write_split(
    folder: Path, photos: list[np.ndarray], split: str, count: int, size: int, key: tuple[int, int], processes: int
) -> str:
    parts = [Image.fromarray(part_of(photo, split)) for photo in photos]
    folders = _emptied(folder)

    def write(number: int) -> None:
        draw = np.random.RandomState(np.random.SeedSequence((*key, number)).generate_state(4))
        place = number % len(parts)
        image = crop(parts[place], size, draw)
        if split == "train":
            image = recoloured(image, draw)
        write_picture(folders[place] / f"{number:05d}.jpg", np.asarray(image))

    for _ in for_each(write, count, processes):
        pass
    return f"{folder}: {count} crops of {len(parts)} photos, {size} × {size} pixels"


def _emptied(folder: Path) -> list[Path]:
    """Make the folders of the classes, without the crops of an earlier run."""
    others = {path.name for path in folder.glob("*/")} - set(CLASSES)
    if others:
        raise DataError(
            f"{folder} has {min(others)}, which is none of the photos: name another --root, or move it away"
        )
    for name in CLASSES:
        make_folder(folder / name)
    with explained(folder):
        for path in folder.glob("*/*.jpg"):
            path.unlink()
    return [folder / name for name in CLASSES]

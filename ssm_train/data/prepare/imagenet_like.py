"""Files like those of ImageNet, for measuring how fast a training reads its data: photographs, but no real classes.

Every random number is a function of the seed, the split and the number of the image, as in :mod:`.composite`.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from ssm_core.errors import ConfigError
from ssm_train.data.prepare.imagenet import CLASSES
from ssm_train.data.prepare.photos import PHOTOS, load_photo
from ssm_train.data.prepare.processes import for_each, usable_cores
from ssm_train.runtime.files import make_folder, write_atomically

SIZE = (500, 375)  # width and height of the commonest image of ImageNet
_JPEG = {"format": "JPEG", "quality": 98}  # some 90 kB a file
_SHARE = (0.6, 1.0)  # of the largest crop of this shape; smaller crops would be smooth, and quicker to decode
_COLOUR = (0.6, 1.0)  # factor of each channel


def prepare_imagenet_like(
    root: Path, train_count: int, val_count: int, classes: int = CLASSES, seed: int = 0, processes: int | None = None
) -> str:
    """Write ``root/{train,val}/<class>/<number>.JPEG``, which :class:`.ImageNet` reads. Classes differ in nothing.

    Args:
        root: folder of the dataset.
        train_count: number of training images.
        val_count: number of validation images.
        classes: number of classes; :class:`.ImageNet` takes 1000 only.
        seed: seed of all random numbers.
        processes: number of processes that make the images; None for one a core. The result does not depend on it.

    Returns:
        A line on each split.

    Raises:
        ConfigError: a count is below that of the classes, or ``root`` has such folders already.
        MissingPackageError: scikit-image or scikit-learn is not installed.
        WriteError: a file cannot be written.
    """
    if min(train_count, val_count) < classes:
        raise ConfigError(
            f"every class has an image in both splits: with {classes} classes --train-count and --val-count are "
            f"{classes} or more, not {train_count} and {val_count}"
        )
    for split in PHOTOS:
        if (root / split).exists():
            raise ConfigError(f"there is a folder {root / split} already: name another folder, or delete it")
    processes = usable_cores() if processes is None else processes
    lines = []
    for stream, (split, count) in enumerate((("train", train_count), ("val", val_count))):
        photos = [Image.fromarray(load_photo(name)) for name in PHOTOS[split]]
        folders = [root / split / f"class_{number:04d}" for number in range(classes)]
        for folder in folders:
            make_folder(folder)

        def write(number: int, photos=photos, folders=folders, stream=stream) -> int:
            path = folders[number % len(folders)] / f"{number:07d}.JPEG"
            image = picture(photos, (seed, stream, number))
            write_atomically(path, lambda file: image.save(file, **_JPEG), durable=False)
            return path.stat().st_size

        size = sum(for_each(write, count, processes)) / count
        lines.append(f"{root / split}: {count} images in {classes} classes, {size / 1e3:.0f} kB each")
    return "\n".join(lines)


def picture(photos: list[Image.Image], key: tuple[int, ...]) -> Image.Image:
    """Cut a piece from a photo, scale it to the size of the files, and change its colours.

    Args:
        photos: the photos to choose from.
        key: numbers that decide what is drawn.
    """
    draw = np.random.RandomState(np.random.SeedSequence(key).generate_state(4))
    photo = photos[draw.randint(len(photos))]
    scale = min(photo.width / SIZE[0], photo.height / SIZE[1]) * draw.uniform(*_SHARE)
    width, height = (round(side * scale) for side in SIZE)
    left, top = draw.randint(photo.width - width + 1), draw.randint(photo.height - height + 1)
    piece = photo.resize(SIZE, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    if draw.randint(2):
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    table = np.arange(256) * draw.uniform(*_COLOUR, size=(3, 1))
    return piece.point(table.round().astype(int).ravel().tolist())

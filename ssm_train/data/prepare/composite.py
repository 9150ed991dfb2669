"""The composited set: Fashion-MNIST items with exact masks, laid over photographs.

The pixels and labels are real, but the scenes are not. Results on this set must be reported as composited. Training and
validation share neither items nor photos.

Every random number is a function of the seed, the split and the number of the image. A larger set therefore begins with
the images of a smaller one. The files have the same bytes wherever NumPy and Pillow are the same, and however many
processes make them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.datasets.fashion_mnist import CLASSES, FILES
from ssm_train.data.datasets.idx import read_idx
from ssm_train.data.prepare.coco_json import CocoFile, outline
from ssm_train.data.prepare.fashion_mnist import check_belonging, prepare_fashion_mnist
from ssm_train.data.prepare.photos import PHOTOS, load_photo
from ssm_train.data.prepare.pictures import begin_split, write_picture
from ssm_train.data.prepare.processes import for_each, usable_cores

BACKGROUND = 0  # label in label maps; the classes of items are 1 … 10, as in the COCO file
ITEM_SPLITS = {"train": "train", "val": "test"}
MIN_SIZE = 64
# Pixels above this value belong to an item. The background is 0, and around it is a faint halo that belongs to neither.
_THRESHOLD = 16
_ITEMS = (2, 6)  # smallest and largest number of items in a scene
_SIDE = (0.25, 0.5)  # side of an item's square, as a share of the side of the image
_ROTATION = 15.0  # largest rotation to either side, in degrees
_COLOUR = (0.45, 1.0)  # factor of each colour channel, in items and photos
_CROP = (0.2, 1.0)  # side of the crop from a photo, as a share of the photo's shorter side
_MIN_VISIBLE = 0.5  # share of every item that later items must leave visible
_TRIES = 20  # places that are tried for an item


@dataclass(frozen=True)
class Scene:
    """An image with its instances.

    Attributes:
        image: [size, size, 3] uint8.
        labels: [size, size] uint8, class of every pixel, 0 for background.
        instances: class (1 … 10) and visible pixels [size, size] bool of every item, from the back to the front.
    """

    image: np.ndarray
    labels: np.ndarray
    instances: list[tuple[int, np.ndarray]]


class Composer:
    """Makes the scenes of one split.

    Args:
        items: [n, 28, 28] uint8, light on black.
        classes: [n] class of every item, from 0 on.
        photos: pictures [H, W, 3] uint8 that backgrounds are cut from.
        size: side of the images in pixels.
        seed: seed of all random numbers.
        stream: number of the split. Splits of one seed draw different random numbers.
    """

    def __init__(
        self,
        items: np.ndarray,
        classes: np.ndarray,
        photos: Sequence[np.ndarray],
        size: int,
        seed: int,
        stream: int,
    ):
        self.items = items
        self.classes = classes
        self.photos = [Image.fromarray(photo) for photo in photos]
        self.size = size
        self.seed = seed
        self.stream = stream

    def scene(self, number: int) -> Scene:
        """Compose the scene with a given number; it depends on nothing else but the arguments of the composer."""
        key = np.random.SeedSequence((self.seed, self.stream, number))
        draw = np.random.RandomState(key.generate_state(4))  # the one generator that NumPy promises never to change
        image = self._background(draw)
        top = np.zeros((self.size, self.size), np.int32)  # number of the item that is visible at a pixel, from 1 on
        whole: list[int] = []  # number of pixels of each item before others cover it
        classes: list[int] = []
        for _ in range(draw.randint(_ITEMS[0], _ITEMS[1] + 1)):
            index = draw.randint(len(self.items))
            pixels, mask = self._item(self.items[index], draw)
            place = self._place(mask, top, whole, draw)
            if place is None:
                continue
            rows, columns = (slice(start, start + length) for start, length in zip(place, mask.shape, strict=True))
            classes.append(int(self.classes[index]) + 1)
            whole.append(int(mask.sum()))
            top[rows, columns][mask] = len(classes)
            image[rows, columns][mask] = pixels[mask]
        labels = np.array([BACKGROUND, *classes], np.uint8)[top]
        return Scene(image, labels, [(label, top == i) for i, label in enumerate(classes, start=1)])

    def _background(self, draw: np.random.RandomState) -> np.ndarray:  # [size, size, 3] uint8
        """Cut a piece from a photo, enlarge or shrink it, and colour it as items are coloured.

        Hue and blur then do not tell items from the background. There are few photos. Without this a network memorises
        their colours, and takes all other colours for items.
        """
        photo = self.photos[draw.randint(len(self.photos))]
        side = int(min(photo.size) * draw.uniform(*_CROP))
        x, y = (draw.randint(length - side + 1) for length in photo.size)
        crop = photo.crop((x, y, x + side, y + side))
        image = np.array(crop.resize((self.size, self.size), Image.Resampling.BICUBIC))[:, :: draw.choice((-1, 1))]
        return (image * draw.uniform(*_COLOUR, size=3)).round().astype(np.uint8)

    def _item(
        self,
        item: np.ndarray,  # [28, 28] uint8
        draw: np.random.RandomState,
    ) -> tuple[np.ndarray, np.ndarray]:  # [h, w, 3] uint8, [h, w] bool
        """Enlarge, rotate, mirror and colour an item. Its mask is where it is then brighter than the threshold."""
        side = max(int(self.size * draw.uniform(*_SIDE)), 1)
        enlarged = Image.fromarray(item).resize((side, side), Image.Resampling.BICUBIC)
        turned = enlarged.rotate(draw.uniform(-_ROTATION, _ROTATION), Image.Resampling.BICUBIC, expand=True)
        grey = np.array(turned)[:, :: draw.choice((-1, 1))]
        colour = draw.uniform(*_COLOUR, size=3)
        mask = grey > _THRESHOLD
        y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(y):
            return np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), bool)
        box = (slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1))
        return (grey[box][:, :, None] * colour).round().astype(np.uint8), mask[box]

    def _place(
        self, mask: np.ndarray, top: np.ndarray, whole: list[int], draw: np.random.RandomState
    ) -> tuple[int, int] | None:
        """Row and column where an item leaves enough of those beneath it visible; None if no such place was found."""
        free = [self.size - length for length in mask.shape]
        if min(free) < 0 or not mask.any():
            return None
        seen = np.bincount(top.ravel(), minlength=len(whole) + 1)[1:]
        for _ in range(_TRIES):
            y, x = (draw.randint(room + 1) for room in free)
            covered = top[y : y + mask.shape[0], x : x + mask.shape[1]][mask]
            left = seen - np.bincount(covered, minlength=len(whole) + 1)[1:]
            if (left >= _MIN_VISIBLE * np.array(whole, dtype=float)).all():
                return y, x
        return None


def prepare_composite(
    root: Path,
    source: Path | None,
    size: int = 256,
    train_count: int = 48000,
    val_count: int = 500,
    seed: int = 0,
    processes: int | None = None,
    items: int | None = None,
) -> str:
    """Write ``root/composite/{train,val}.json``, ``{train,val}/*.jpg`` and ``{train,val}_labels/*.png``.

    Args:
        root: folder of all datasets.
        source: folder of the downloaded Fashion-MNIST, as for ``prepare_fashion_mnist``.
        size: side of the images in pixels.
        train_count: number of training images.
        val_count: number of validation images.
        seed: seed of all random numbers; each gives other scenes.
        processes: number of processes that make the images; None for one a core. The result does not depend on it.
        items: number of Fashion-MNIST's training images whose items are used, from the first on; None for all. The
            files of Fashion-MNIST then stay where they are, and need not have more images.

    Returns:
        A line on each split.

    Raises:
        ConfigError: ``size`` is too small for the items, a count is below 1, or the seed is negative.
        DataError: Fashion-MNIST is missing or damaged, or has fewer training images than ``items``.
        MissingPackageError: scikit-image, scikit-learn or pycocotools is not installed.
    """
    processes = usable_cores() if processes is None else processes
    numbers = [train_count, val_count, processes, *([] if items is None else [items])]
    if size < MIN_SIZE or min(numbers) < 1 or seed < 0:
        raise ConfigError(
            f"the composited set takes --size from {MIN_SIZE} on, counts, --processes and --items from 1 on and a "
            f"--seed from 0 on, not {size}, {train_count} and {val_count}, {processes}, {items}, {seed}"
        )
    folder, place = root / "composite", root / "fashion-mnist"
    if items is None:
        prepare_fashion_mnist(root, source)
    else:
        place = source or place
    lines = []
    for stream, (split, count) in enumerate((("train", train_count), ("val", val_count))):
        images, labels = (
            read_idx(place / name, dimensions)
            for name, dimensions in zip(FILES[ITEM_SPLITS[split]], (3, 1), strict=True)
        )
        check_belonging(place, ITEM_SPLITS[split], images, labels)
        if items is not None and split == "train":
            if len(images) < items:
                raise DataError(f"{place} has {len(images)} training images, and --items asks for {items}")
            images, labels = images[:items], labels[:items]
        photos = [load_photo(name) for name in PHOTOS[split]]
        composer = Composer(images, labels, photos, size, seed, stream)
        lines.append(_write_split(composer, folder, split, count, processes))
    return "\n".join(lines)


def _write_split(composer: Composer, folder: Path, split: str, count: int, processes: int) -> str:
    coco = CocoFile(CLASSES)
    images, maps, annotations = begin_split(folder, split, ".jpg")

    def write(number: int) -> list[tuple[int, dict]]:  # category and outline of every item
        scene = composer.scene(number)
        write_picture(images / f"{number:06d}.jpg", scene.image)
        write_picture(maps / f"{number:06d}.png", scene.labels)
        return [(category, outline(mask)) for category, mask in scene.instances]

    for number, instances in enumerate(for_each(write, count, processes)):
        image = coco.add_image(f"{number:06d}.jpg", composer.size, composer.size)
        for category, shape in instances:
            coco.add_outline(image, category, shape)
    coco.write(annotations)
    return f"{images}: {count} composited images, {len(coco.annotations)} items of {len(CLASSES)} classes"

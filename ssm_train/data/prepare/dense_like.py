"""Images with objects and with label maps, for measuring how fast a training is. Nothing can be learnt from them.

Every random number is a function of the number of the image.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ssm_train.data.prepare.processes import for_each, usable_cores


def make_instances(folder: Path, count: int, classes: Sequence[str]) -> None:
    """Write images of 640x480 with 7 polygons each, as ``images/`` and ``train.json`` in COCO's format.

    Args:
        folder: folder of the dataset, which is made.
        count: number of images.
        classes: names of the classes.
    """
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(count)]
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]

    def write(number: int) -> list[dict]:
        pixels, draw = _picture((0, number), 640, 480)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.jpg", quality=90)
        objects = []
        for place in range(7):
            angles, radius = np.linspace(0, 2 * np.pi, 24, endpoint=False), draw.uniform(12, 120)
            x = np.clip(draw.uniform(60, 580) + radius * np.cos(angles) * draw.uniform(0.6, 1, 24), 0, 639)
            y = np.clip(draw.uniform(60, 420) + radius * np.sin(angles) * draw.uniform(0.6, 1, 24), 0, 479)
            box = [float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))]
            objects.append(
                {
                    "id": 7 * number + place + 1,
                    "image_id": number,
                    "category_id": categories[draw.randint(len(classes))]["id"],
                    "segmentation": [np.stack([x, y], 1).round(2).ravel().tolist()],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        return objects

    (folder / "images").mkdir(parents=True)
    annotations = [item for objects in for_each(write, count, usable_cores()) for item in objects]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "train.json").write_text(json.dumps(content))


def make_label_maps(folder: Path, count: int) -> None:
    """Write images of 683x512 with label maps of 150 classes and unlabelled pixels, in ADE20K's folders.

    Args:
        folder: folder of the dataset, which is made.
        count: number of images.
    """
    for name in ("images", "annotations"):
        (folder / name / "training").mkdir(parents=True)

    def write(number: int) -> None:
        pixels, draw = _picture((1, number), 683, 512)
        Image.fromarray(pixels).save(folder / "images" / "training" / f"{number}.jpg", quality=90)
        labels = draw.randint(0, 151, (8, 11)).astype(np.uint8).repeat(64, 0).repeat(64, 1)[:512, :683]
        Image.fromarray(labels).save(folder / "annotations" / "training" / f"{number}.png")

    list(for_each(write, count, usable_cores()))


def _picture(key: tuple[int, ...], width: int, height: int) -> tuple[np.ndarray, np.random.RandomState]:
    """A coarse coloured pattern with noise, and the generator that drew it."""
    draw = np.random.RandomState(np.random.SeedSequence(key).generate_state(4))
    coarse = Image.fromarray(draw.randint(0, 256, (9, 12, 3)).astype(np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noise = draw.randint(-12, 13, (height, width, 3))
    return np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8), draw

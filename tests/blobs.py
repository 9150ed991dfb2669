"""Makes a small detection data set in COCO's format. Its images show light rectangles and discs on noise."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as codec

CLASSES = ("disc", "box")


def encode(mask):
    code = codec.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode()}


def scene(draw, size):
    """Return an image and its objects as (category, mask)."""
    image = draw.randint(0, 60, (size, size, 3)).astype(np.uint8)
    y, x = np.mgrid[:size, :size]
    objects = []
    for corner in ((0, 0), (0, size // 2), (size // 2, 0)):
        radius = draw.randint(size // 8, size // 5)
        cy, cx = (start + draw.randint(radius, size // 2 - radius) for start in corner)
        category = int(draw.randint(2))
        distance = np.maximum(abs(y - cy), abs(x - cx)) if category else np.hypot(y - cy, x - cx)
        mask = distance < radius
        image[mask] = (250, 220, 200) if category else (150, 200, 250)
        objects.append((category, mask))
    return image, objects


def write(root, images=4, size=64, suffix=".jpg"):
    """Write ``train.json``, ``val.json`` and the images in ``train/`` and ``val/``. Return the content of the first."""
    contents = {}
    for seed, split in enumerate(("train", "val")):
        draw = np.random.RandomState(seed)
        (root / split).mkdir(parents=True, exist_ok=True)
        content = {"images": [], "annotations": []}
        content["categories"] = [{"id": 3 * i + 1, "name": name} for i, name in enumerate(CLASSES)]
        for number in range(images):
            image, objects = scene(draw, size)
            name = f"{number}{suffix}"
            Image.fromarray(image).save(root / split / name, quality=95)
            content["images"].append({"id": 10 + number, "file_name": name, "height": size, "width": size})
            for category, mask in objects:
                code = encode(mask)
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": 10 + number,
                        "category_id": 3 * category + 1,
                        "segmentation": code,
                        "area": int(mask.sum()),
                        "bbox": codec.toBbox(code).tolist(),
                        "iscrowd": 0,
                    }
                )
        (root / f"{split}.json").write_text(json.dumps(content))
        contents[split] = content
    return contents["train"]


def options(root):
    """Return the options that make a config of the nuclei run on the blobs."""
    loaders = ("train", "val", "test")
    return [
        *(f"{split}_dataloader.dataset.data_root={root}" for split in loaders),
        *(f"{split}_evaluator.ann_file={root}/val.json" for split in ("val", "test")),
        *(f"model.roi_head.{head}.num_classes=2" for head in ("bbox_head", "mask_head")),
        *(f"{split}_dataloader.dataset.pipeline.1.scale=(64,64)" for split in ("val", "test")),
        "train_dataloader.dataset.pipeline.2.scale=(64,64)",
    ]


def changed(entry, change):
    """Return a copy of an annotation file's entry with other fields, of which ``...`` are dropped."""
    return {key: value for key, value in {**entry, **change}.items() if value is not ...}

"""Draws damages of annotation files in COCO's format, as the programs of people make them."""

import copy
import json
import math

from PIL import Image

NAN = math.nan

CLASSES = ("bolt", "nut", "washer")
HEIGHT, WIDTH = 48, 64


def corners(box):
    left, top, wide, high = box
    return [left, top, left + wide, top, left + wide, top + high, left, top + high]


def sound_file(draw, folder):
    """Write images. Return a sound file with rectangles for objects."""
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)]
    for number in range(4):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"image{number}.png")
        image = {"id": number + 1, "file_name": f"image{number}.png", "width": WIDTH, "height": HEIGHT}
        content["images"].append(image)
        for _ in range(5):
            wide, high = draw.randint(4, 20, 2).tolist()
            box = [draw.randint(WIDTH - wide), draw.randint(HEIGHT - high), wide, high]
            annotation = {"id": len(content["annotations"]) + 1, "image_id": number + 1, "bbox": box}
            annotation |= {"category_id": draw.randint(3) + 1, "area": wide * high, "iscrowd": int(draw.rand() < 0.1)}
            content["annotations"].append({**annotation, "segmentation": [corners(box)]})
    return json.loads(json.dumps(content, default=int))


def pick(draw, values):
    return values[draw.randint(len(values))]


NOTHING = (None, NAN, "", "nan", ...)


def harmless(draw, annotation, names):
    """Write a field of an object in another form, or drop one that follows from the others."""
    box, number, category = annotation["bbox"], annotation["image_id"], annotation["category_id"]
    polygon = corners(box)
    pairs = [polygon[place : place + 2] for place in range(0, 8, 2)]
    texts = [str(value) for value in polygon]
    stray = ([], None, [1, 2], [3, 4, 5, 6, 7], "x", [*polygon[:7], None], [1, 1, 5, 5, 3, 3], NAN)
    forms = {
        "id": (0, 1, "7", 2.0, *NOTHING),
        "area": (0, -1, "", "12.5 px", [], str(annotation["area"]), *NOTHING),
        "iscrowd": (annotation["iscrowd"], str(annotation["iscrowd"]), bool(annotation["iscrowd"])),
        "ignore": (0, "0", False, *NOTHING),
        "image_id": (str(number), float(number), f"{number}.0", f"image{number - 1}.png"),
        "category_id": (str(category), float(category), names[category]),
        "bbox": ([str(v) for v in box], [float(v) for v in box], str(box), [*box[:3], None], [], 0, *NOTHING),
        "segmentation": (polygon, pairs, [pairs], [texts], str([polygon]), [polygon, pick(draw, stray)]),
        "attributes": ({"occluded": False}, None),
    }  # fmt: skip
    field = pick(draw, list(forms))
    return {field: pick(draw, forms[field])}


def fatal(draw):
    """Damage an object so that it cannot be understood."""
    changes = [dict(image_id=value) for value in (99, *NOTHING)] + [dict(category_id=value) for value in (77, *NOTHING)]
    changes += [dict(bbox=value, segmentation=pick(draw, (*NOTHING, []))) for value in ([1, 2, 3], 0, *NOTHING)]
    changes += [dict(bbox=[200, 3, 5, 5], segmentation=[]), dict(iscrowd=7), dict(iscrowd="some")]
    return pick(draw, changes)


def renamed_images(draw, content):
    """Write the ids, names and sizes of images in other forms, and list one again."""
    write = pick(draw, (int, float, str, lambda n: f"{n}.0"))
    for image in content["images"]:
        image["id"] = write(image["id"])
        image["file_name"] = pick(draw, ("{}", "./{}", "D:\\set\\{}", "/data/{}", "set\\{}")).format(image["file_name"])
        if draw.rand() < 0.3:
            image["file_name"] = image["file_name"].replace(".png", ".PNG")
        key = pick(draw, ("width", "height"))
        image[key] = pick(draw, (image[key], str(image[key]), float(image[key]), 0, -1, *NOTHING))
    if draw.rand() < 0.5:
        content["images"].append(copy.deepcopy(pick(draw, content["images"])))
    draw.shuffle(content["images"])


def renumbered_categories(draw, content):
    """Write the categories with gaps, from 0, as texts or fractions, in another order, with a super-category."""
    first = pick(draw, ([1, 2, 3], [0, 1, 2], [40, 7, 90]))
    write = pick(draw, (int, float, str))
    numbers = {category["id"]: number for category, number in zip(content["categories"], first, strict=True)}
    for category in content["categories"]:
        category["id"] = write(numbers[category["id"]])
    for annotation in content["annotations"]:
        annotation["category_id"] = numbers[annotation["category_id"]]
    if 0 not in first and draw.rand() < 0.5:
        for category in content["categories"]:
            category["supercategory"] = "parts"
        content["categories"].append({"id": write(0), "name": "parts", "supercategory": "none"})
    draw.shuffle(content["categories"])
    return {numbers[number + 1]: name for number, name in enumerate(CLASSES)}


def damaged(draw, content):
    """Damage a sound file. Return it, and the true objects as (image, class, box, crowd)."""
    names = renumbered_categories(draw, content)
    expected, annotations = [], []
    for place, annotation in enumerate(content["annotations"]):
        true = f"image{annotation['image_id'] - 1}.png", names[annotation["category_id"]], tuple(annotation["bbox"])
        change = {}
        for _ in range(draw.randint(4)):
            change |= harmless(draw, annotation, names)
        if place % 5 == 0 and draw.rand() < 0.7:
            change |= fatal(draw)
        else:
            expected.append((*true, annotation["iscrowd"]))
        annotations.append({key: value for key, value in {**annotation, **change}.items() if value is not ...})
    content["annotations"] = annotations
    renamed_images(draw, content)
    content["images"] = [{k: v for k, v in image.items() if v is not ...} for image in content["images"]]
    if draw.rand() < 0.3:
        annotations.insert(draw.randint(len(annotations)), pick(draw, (None, 7, [], "x")))
    return content, expected

"""Tests of annotation files with drawn damages: they are read like the sound file, as pycocotools measures it."""

import copy
import json
import math

import blobs
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssm_train.tasks.detection import CocoInstanceMetric, CocoInstances

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


def as_sound_file(expected, path):
    """Write the true objects as a sound file for pycocotools."""
    names = sorted({image for image, *_ in expected} | {f"image{number}.png" for number in range(4)})
    content = {"images": [], "annotations": [], "categories": []}
    content["images"] = [dict(id=n + 1, file_name=name, width=WIDTH, height=HEIGHT) for n, name in enumerate(names)]
    content["categories"] = [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)]
    for number, (image, name, box, crowd) in enumerate(expected, start=1):
        annotation = dict(id=number, image_id=names.index(image) + 1, category_id=CLASSES.index(name) + 1)
        annotation |= dict(bbox=list(box), area=box[2] * box[3], iscrowd=crowd, segmentation=[corners(box)])
        content["annotations"].append(annotation)
    path.write_text(json.dumps(content))
    return COCO(str(path))


def predictions_of(draw, expected, image, shift):
    """Return predictions of an image: its objects, moved by up to ``shift`` pixels, some of another class."""
    own = [item for item in expected if item[0] == image and (shift or not item[3])]
    boxes = np.array([box for _, _, box, _ in own], dtype=float).reshape(-1, 4)
    boxes[:, :2] += draw.randint(0, shift + 1, (len(own), 2))
    labels = [CLASSES.index(name) for _, name, _, _ in own]
    return (
        boxes,
        draw.permutation(len(own)) / 10 + 0.1,
        [draw.randint(3) if shift and draw.rand() < 0.2 else n for n in labels],
    )


def measured(metric, data, made):
    """Return the metric of predictions for the images of a dataset."""
    classes = data.metainfo["classes"]
    metric.dataset_meta = data.metainfo
    for index in range(len(data)):
        info = data.get_data_info(index)
        boxes, scores, labels = made[info["img_path"].rpartition("/")[2]]
        found = {
            "bboxes": torch.tensor(np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])),
            "scores": torch.tensor(scores),
        }
        found["labels"] = torch.tensor([classes.index(CLASSES[n]) for n in labels], dtype=torch.long)
        found["masks"] = [rectangle(box) for box in boxes]
        metric.process({}, [dict(img_id=info["img_id"], ori_shape=(HEIGHT, WIDTH), pred_instances=found)])
    return metric.evaluate(len(data))


def rectangle(box):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    left, top, wide, high = (int(v) for v in box)
    mask[top : top + high, left : left + wide] = 1
    return blobs.encode(mask)


def oracle(truth, made, kind):
    """Return COCO's mAP of predictions by pycocotools alone."""
    objects = []
    for image in truth.dataset["images"]:
        for box, score, label in zip(*made[image["file_name"]], strict=True):
            item = dict(image_id=image["id"], category_id=label + 1, score=score)
            objects.append({**item, **({"bbox": box.tolist()} if kind == "bbox" else {"segmentation": rectangle(box)})})
    evaluation = COCOeval(truth, truth.loadRes(objects), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_file_is_the_sound_one(tmp_path, seed):
    """The dataset has the objects that a person would read, and the metric says what pycocotools says of those."""
    draw = np.random.RandomState(seed)
    (tmp_path / "images").mkdir()
    content, expected = damaged(draw, sound_file(draw, tmp_path / "images"))
    text = json.dumps(content)
    (tmp_path / "a.json").write_bytes((b"\xef\xbb\xbf" if seed % 2 else b"") + text.encode())
    steps = [dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=True)]
    data = CocoInstances(
        ann_file="a.json", data_root=str(tmp_path), data_prefix=dict(img="images"), pipeline=steps, test_mode=True
    )
    assert sorted(data.metainfo["classes"]) == sorted(CLASSES)
    loaded = []
    for index in range(len(data)):
        info = data.get_data_info(index)
        assert (info["height"], info["width"]) == (HEIGHT, WIDTH)
        for instance in info["instances"]:
            left, top, right, bottom = instance["bbox"]
            name = data.metainfo["classes"][instance["bbox_label"]]
            box = (left, top, right - left, bottom - top)
            loaded.append((info["img_path"].rpartition("/")[2], name, box, instance["ignore_flag"]))
    assert sorted(loaded) == sorted(expected)
    truth = as_sound_file(expected, tmp_path / "sound.json")
    for shift in (0, 6):
        made = {
            image["file_name"]: predictions_of(draw, expected, image["file_name"], shift)
            for image in truth.dataset["images"]
        }
        metric = CocoInstanceMetric()
        metric.take_data(data)
        result = measured(metric, data, made)
        for kind in ("bbox", "segm"):
            assert result[f"coco/{kind}_mAP"] == pytest.approx(oracle(truth, made, kind), abs=5e-4)
            assert shift or result[f"coco/{kind}_mAP"] == 1.0

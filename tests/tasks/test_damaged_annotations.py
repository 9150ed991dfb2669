"""Tests of annotation files with drawn damages: they are read like the sound file, as pycocotools measures it."""

import json

import blobs
import numpy as np
import pytest
import torch
from damaged_annotations import CLASSES, HEIGHT, WIDTH, corners, damaged, sound_file
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssm_train.tasks.detection import CocoInstanceMetric, CocoInstances


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
    """The dataset has the objects that a person would read, and the metric says what pycocotools says of those.

    Both use an index that an earlier dataset has made.
    """
    draw = np.random.RandomState(seed)
    (tmp_path / "images").mkdir()
    content, expected = damaged(draw, sound_file(draw, tmp_path / "images"))
    text = json.dumps(content)
    (tmp_path / "a.json").write_bytes((b"\xef\xbb\xbf" if seed % 2 else b"") + text.encode())
    steps = [dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=True)]
    options = dict(ann_file="a.json", data_root=str(tmp_path), data_prefix=dict(img="images"), pipeline=steps)
    plain, first, data = (CocoInstances(**options, test_mode=True, index_from=size) for size in (None, 0, 0))
    assert len(list(tmp_path.glob(".a.json.*.index"))) == 1
    for index in range(len(plain)):
        assert plain.get_data_info(index) == first.get_data_info(index) == data.get_data_info(index)
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

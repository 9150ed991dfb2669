"""Tests of the dataset of COCO annotations and of the metric."""

import copy
import json
import math

import blobs
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssm_core.errors import ConfigError, DataError
from ssm_train.tasks.detection import CocoInstanceMetric, CocoInstances, Float32RoIExtractor
from ssm_train.tasks.detection.confusion import Objects, count_pairs
from ssm_train.tasks.detection.predictions import CocoResultWriter


def dataset(root, **options):
    options = {"filter_cfg": dict(filter_empty_gt=True), **options}
    return CocoInstances(ann_file="train.json", data_root=str(root), data_prefix=dict(img="train"), **options)


# --- Dataset


def test_classes_are_the_files(coco):
    data = dataset(coco.root)
    assert data.metainfo["classes"] == blobs.CLASSES
    labels = [i["bbox_label"] for n in range(len(data)) for i in data.get_data_info(n)["instances"]]
    assert labels == [(a["category_id"] - 1) // 3 for a in coco.content["annotations"]]


def test_some_of_the_classes(coco):
    data = dataset(coco.root, metainfo=dict(classes=["box"]))
    boxes = sum(a["category_id"] == 4 for a in coco.content["annotations"])
    assert sum(len(data.get_data_info(n)["instances"]) for n in range(len(data))) == boxes
    assert {i["bbox_label"] for n in range(len(data)) for i in data.get_data_info(n)["instances"]} == {0}
    with pytest.raises(DataError, match=r"no category 'circle', only disc, box"):
        dataset(coco.root, metainfo=dict(classes=["circle"]))


def test_a_class_is_named_once(coco):
    for test_mode in (False, True):
        with pytest.raises(ConfigError, match="a dataset's classes name disc twice: name every class once"):
            dataset(coco.root, metainfo=dict(classes=("disc", "disc")), test_mode=test_mode)
    with pytest.raises(ConfigError, match=r"are a list of names between quotes, such as \['cat', 'dog'\], not 'disc'"):
        dataset(coco.root, metainfo=dict(classes="disc"))


def test_the_classes_in_another_order(coco):
    data, turned = dataset(coco.root), dataset(coco.root, metainfo=dict(classes=["box", "disc"]))
    found = dataset(coco.root)
    found.renumber(["box", "disc"])
    for number in range(len(data)):
        labels = [i["bbox_label"] for i in data.get_data_info(number)["instances"]]
        for other in (turned, found):
            assert [1 - i["bbox_label"] for i in other.get_data_info(number)["instances"]] == labels
    assert (data.cat_ids, turned.cat_ids, found.cat_ids) == ([1, 4], [4, 1], [4, 1])
    assert tuple(turned.metainfo["classes"]) == found.metainfo["classes"] == ("box", "disc")
    found.renumber(["disc", "box"])
    assert found.cat_ids == [1, 4]
    assert found.get_data_info(0) == data.get_data_info(0)


def test_images_without_objects(coco):
    coco(annotations=[a for a in coco.content["annotations"] if a["image_id"] != 11])
    assert len(dataset(coco.root)) == 3
    assert len(dataset(coco.root, filter_cfg=None)) == 4
    assert len(dataset(coco.root, test_mode=True)) == 4
    coco(annotations=[])
    with pytest.raises(DataError, match=r"none of the 4 images of .*train.json has an object to train on"):
        dataset(coco.root)
    assert len(dataset(coco.root, test_mode=True)) == 4


def test_a_test_set_without_annotations(coco):
    content = {key: value for key, value in coco.content.items() if key != "annotations"}
    coco.path.write_text(json.dumps(content))
    assert len(dataset(coco.root, test_mode=True)) == 4


# --- Metric


def perfect_samples(content, images, scale=1.0):
    """Return the predictions of a model that knows the ground truth."""
    for image in images:
        own = [a for a in content["annotations"] if a["image_id"] == image]
        boxes = np.array([a["bbox"] for a in own], dtype=float).reshape(-1, 4)
        boxes[:, 2:] = boxes[:, :2] + boxes[:, 2:] * scale
        prediction = {
            "bboxes": torch.tensor(boxes),
            "scores": torch.ones(len(own)),
            "labels": torch.tensor([(a["category_id"] - 1) // 3 for a in own], dtype=torch.long),
            "masks": [a["segmentation"] for a in own],
        }
        yield {"img_id": image, "ori_shape": (64, 64), "pred_instances": prediction}


def evaluate(coco, samples, **options):
    metric = CocoInstanceMetric(str(coco.path), **options)
    metric.dataset_meta = dict(classes=blobs.CLASSES)
    samples = list(samples)
    metric.process({}, samples)
    return metric.evaluate(len(samples))


IMAGES = (10, 11, 12, 13)


def test_a_perfect_prediction(coco):
    result = evaluate(coco, perfect_samples(coco.content, IMAGES))
    assert result["coco/bbox_mAP"] == 1.0
    assert result["coco/segm_mAP"] == 1.0


def test_boxes_that_overlap_by_two_thirds(coco):
    # Sides scaled by sqrt(2/3) give an overlap of 2/3. It reaches four of the ten thresholds: 0.5, 0.55, 0.6 and 0.65.
    result = evaluate(coco, perfect_samples(coco.content, IMAGES, scale=math.sqrt(2 / 3)), metric="bbox")
    assert result["coco/bbox_mAP"] == pytest.approx(0.4)
    assert "coco/segm_mAP" not in result


def test_the_calibration_error_of_a_detector(tmp_path):
    """By the definition of Küppers et al. The precision of every bin of a tenth is counted by hand."""

    def rectangle(left, top):
        mask = np.zeros((64, 64), np.uint8)
        mask[top : top + 20, left : left + 20] = 1
        return mask

    def annotation(number, image, category, left, top, crowd=0):
        box = {"bbox": [left, top, 20, 20], "area": 400, "segmentation": blobs.encode(rectangle(left, top))}
        return {"id": number, "image_id": image, "category_id": category, "iscrowd": crowd, **box}

    content = {
        "images": [{"id": image, "file_name": f"{image}.png", "height": 64, "width": 64} for image in (1, 2)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(blobs.CLASSES, 1)],
        "annotations": [
            annotation(1, 1, 1, 0, 0), annotation(2, 1, 1, 40, 0, crowd=1), annotation(3, 1, 2, 0, 40),
            annotation(4, 2, 2, 30, 30),
        ],
    }  # fmt: skip
    (tmp_path / "val.json").write_text(json.dumps(content))
    predicted = {
        # Right; a second one of the same object; on a crowd, which does not count; an object of another class; an
        # overlap of two thirds; too unsure to count.
        1: [(0.92, 0, 0, 0), (0.91, 0, 1, 0), (0.95, 0, 40, 0), (0.55, 0, 0, 40), (0.52, 1, 4, 40), (0.2, 1, 0, 40)],
        2: [(0.35, 1, 38, 30)],  # an overlap of 3/7
    }
    samples = [
        {
            "img_id": image,
            "ori_shape": (64, 64),
            "pred_instances": {
                "bboxes": torch.tensor([[left, top, left + 20, top + 20] for _, _, left, top in found]).float(),
                "scores": torch.tensor([score for score, *_ in found]),
                "labels": torch.tensor([label for _, label, *_ in found]),
                "masks": [blobs.encode(rectangle(left, top)) for _, _, left, top in found],
            },
        }
        for image, found in predicted.items()
    ]

    def errors(chosen, **options):
        metric = CocoInstanceMetric(str(tmp_path / "val.json"), **{"bins": 10, **options})
        metric.dataset_meta = dict(classes=blobs.CLASSES)
        metric.process({}, chosen)
        result = metric.evaluate(len(chosen))
        return [result.get(f"coco/{kind}_ece") for kind in ("bbox", "segm")]

    # Mean score and precision: 0.915 and 1/2 of two, 0.535 and 1/2 of two, 0.35 and 0 of one.
    expected = (2 * (0.915 - 0.5) + 2 * (0.535 - 0.5) + 0.35) / 5
    assert errors(samples) == pytest.approx([expected] * 2, abs=5e-4)
    # In one bin: a mean of 0.65 and two of five.
    assert errors(samples, bins=1) == pytest.approx([0.65 - 0.4] * 2, abs=5e-4)
    # Alone above 0.9: two in one bin.
    assert errors(samples, min_score=0.9) == pytest.approx([0.415] * 2, abs=5e-4)
    assert errors(samples, min_score=0.99) == [None, None]
    assert errors(samples, iou_thrs=[0.75]) == [None, None]
    with pytest.raises(ConfigError, match="needs at least one bin, not 0"):
        CocoInstanceMetric(bins=0)


def test_only_predicted_images_count(coco):
    # The images without a prediction stand for those that could not be read.
    assert evaluate(coco, perfect_samples(coco.content, IMAGES[:2]))["coco/segm_mAP"] == 1.0


def test_nothing_found(coco):
    nothing = {**coco.content, "annotations": []}
    result = evaluate(coco, perfect_samples(nothing, IMAGES))
    assert result == {"coco/bbox_mAP": 0.0, "coco/segm_mAP": 0.0}


def test_faulty_annotations_do_not_stop_the_metric(coco):
    faulty = [{**coco.content["annotations"][0], "id": 1000, "bbox": [1, 2], "segmentation": []}, {"id": 1001}]
    coco(annotations=[*coco.content["annotations"], *faulty])
    assert evaluate(coco, perfect_samples(coco.content, IMAGES))["coco/bbox_mAP"] == 1.0


def test_figures_of_every_class(coco):
    """A model of shifted boxes that takes every disc of the first image for a box, seen by pycocotools itself."""
    samples = list(perfect_samples(coco.content, IMAGES))
    for number, sample in enumerate(samples):
        found = sample["pred_instances"]
        found["bboxes"] += number
        found["scores"] = torch.linspace(0.9, 0.5, len(found["labels"]))
    samples[0]["pred_instances"]["labels"][:] = 1
    metric = CocoInstanceMetric(str(coco.path), classwise=True)
    metric.dataset_meta = dict(classes=blobs.CLASSES)
    metric.process({}, samples)
    metrics = metric.evaluate(len(samples))
    writer = CocoResultWriter(coco.root / "new" / "found.json")
    writer.dataset = dataset(coco.root)
    writer.process({}, samples)
    writer.evaluate(len(samples))
    truth = COCO(str(coco.path))
    objects = json.loads(writer.out.read_text())
    for kind in ("bbox", "segm"):
        kept = [{key: v for key, v in item.items() if key != "bbox" or kind == "bbox"} for item in objects]
        for number, name in enumerate(blobs.CLASSES):
            oracle = COCOeval(truth, truth.loadRes(copy.deepcopy(kept)), kind)
            oracle.params.catIds = [3 * number + 1]
            oracle.evaluate()
            oracle.accumulate()
            oracle.summarize()
            columns = {"AP": 0, "AP50": 1, "AP75": 2, "AR": 8}
            assert [metric.report.columns[f"{kind}_{c}"][number] for c in columns] == pytest.approx(
                [oracle.stats[place] for place in columns.values()]
            )
            assert metrics[f"coco/{kind}_AP/{name}"] == pytest.approx(oracle.stats[0])
        assert metrics[f"coco/{kind}_mAP"] == pytest.approx(np.mean(metric.report.columns[f"{kind}_AP"]), abs=5e-4)
    labels = [(a["category_id"] - 1) // 3 for a in coco.content["annotations"]]
    discs = sum(label == 0 for label in labels[:3])
    assert metric.report.columns["objects"] == [labels.count(0), labels.count(1)]
    assert metric.report.confusion.tolist() == [
        [labels.count(0) - discs, discs, 0], [0, labels.count(1), 0], [0, 0, 0],
    ]  # fmt: skip


def test_predictions_and_objects_are_paired():
    square = np.array([[0, 0, 10, 10], [20, 0, 10, 10], [40, 0, 10, 10]], dtype=float)
    # The better prediction of the first object wins, the other one is on the background. The second object has a
    # prediction of another class, the third has none with half of it. The last prediction is on a crowd.
    true = Objects([0, 1, 1, 0], np.vstack([square, [60, 0, 30, 10]]), [False, False, False, True])
    boxes = np.vstack([square[[0, 0, 1]], [46, 0, 10, 10], [62, 0, 10, 10]])
    confusion = np.zeros((3, 3), dtype=int)
    count_pairs(confusion, true, Objects([1, 0, 0, 1, 0], boxes, [0.4, 0.9, 0.8, 0.7, 0.6]))
    assert confusion.tolist() == [[1, 0, 0], [1, 0, 1], [0, 2, 0]]
    count_pairs(confusion, true, Objects([], np.zeros((0, 4)), []))
    count_pairs(confusion, Objects([], np.zeros((0, 4)), []), Objects([1], square[:1], [0.5]))
    assert confusion.tolist() == [[1, 0, 1], [1, 0, 3], [0, 3, 0]]


def test_masks_of_a_model_that_has_none(coco):
    samples = list(perfect_samples(coco.content, IMAGES))
    for sample in samples:
        del sample["pred_instances"]["masks"]
    assert evaluate(coco, samples, metric="bbox")["coco/bbox_mAP"] == 1.0
    with pytest.raises(ConfigError, match=r'the model predicts no masks: set metric="bbox"'):
        evaluate(coco, samples)


def test_mmdets_other_figures(coco):
    result = evaluate(
        coco,
        perfect_samples(coco.content, IMAGES),
        metric=["bbox", "proposal_fast"],
        outfile_prefix=str(coco.root / "x"),
    )
    assert (result["coco/bbox_mAP"], result["coco/AR@100"]) == (1.0, 1.0)
    assert (coco.root / "x.segm.json").exists()
    with pytest.raises(ConfigError, match="metric_items has no 'mAP_5', only mAP, mAP_50"):
        CocoInstanceMetric(str(coco.path), metric_items=["mAP_5"])


# --- RoIAlign under autocast


def test_boxes_keep_their_precision_under_autocast():
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    settings = dict(
        roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0), out_channels=4, featmap_strides=[4]
    )
    maps = torch.arange(320.0).expand(1, 4, 8, 320).to(torch.bfloat16)  # bfloat16 holds integers up to 256 exactly
    rois = torch.tensor([[0, 1001.5, 3.0, 1022.5, 24.0]])
    exact = SingleRoIExtractor(**settings)((maps.float(),), rois)
    with torch.autocast("cpu", torch.bfloat16):
        ours = Float32RoIExtractor(**settings)((maps,), rois)
        theirs = SingleRoIExtractor(**settings)((maps,), rois)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, exact)
    assert (theirs.float() - exact).abs().max() > 0.25

"""Tests of COCO annotations with every kind of fault, of the dataset that reads them, and of the metric."""

import copy
import json
import logging
import math

import blobs
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from pycocotools import mask as codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssm_core.errors import ConfigError, DataError
from ssm_train.tasks.detection import CocoInstanceMetric, CocoInstances, Float32RoIExtractor
from ssm_train.tasks.detection.annotations import read_annotations
from ssm_train.tasks.detection.confusion import Objects, count_pairs
from ssm_train.tasks.detection.masks import is_mask
from ssm_train.tasks.detection.predictions import CocoResultWriter


@pytest.fixture
def coco(tmp_path):
    """Write a data set. Return a function that changes its training annotations and has its folder as ``root``."""
    content = blobs.write(tmp_path)
    path = tmp_path / "train.json"

    def change(**keys):
        path.write_text(json.dumps({**content, **keys}))
        return path

    change.root, change.content, change.path = tmp_path, content, path
    return change


def dataset(root, **options):
    options = {"filter_cfg": dict(filter_empty_gt=True), **options}
    return CocoInstances(ann_file="train.json", data_root=str(root), data_prefix=dict(img="train"), **options)


# --- Annotations


FAULTS = {
    "no box": (dict(bbox=...), "missing"),
    "no category": (dict(category_id=...), "missing"),
    "other image": (dict(image_id=99), "an unknown image"),
    "other category": (dict(category_id=0), "an unknown category"),
    "three numbers": (dict(bbox=[1, 2, 3]), "not four finite numbers"),
    "NaN": (dict(bbox=[1, 2, math.nan, 4]), "not four finite numbers"),
    "text": (dict(bbox=["1", 2, 3, 4]), "not four finite numbers"),
    "flat": (dict(bbox=[1, 2, 0, 4]), "without area in the image"),
    "turned": (dict(bbox=[5, 5, -3, -3]), "without area in the image"),
    "outside": (dict(bbox=[70, 5, 10, 10]), "without area in the image"),
    "no mask": (dict(segmentation=...), "mask that is missing"),
    "empty mask": (dict(segmentation=[]), "mask that is missing, malformed"),
    "two points": (dict(segmentation=[[1, 2, 3, 4]]), "malformed"),
    "odd polygon": (dict(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "malformed"),
    "other size": (dict(segmentation=dict(size=[32, 64], counts="abc")), "of another size"),
    "short run lengths": (dict(segmentation=dict(size=[64, 64], counts=[10, 20])), "of another size"),
    "long compressed run lengths": (dict(segmentation=dict(size=[64, 64], counts="PPPP0")), "malformed"),
    "text as run lengths": (dict(segmentation=dict(size=[64, 64], counts=["4096"])), "malformed"),
    "size of a cut-off box": (dict(segmentation=dict(size=64, counts=[4096])), "malformed"),
    "size in fractions": (dict(segmentation=dict(size=[64.0, 64.0], counts=[4096])), "malformed"),
    "nested polygon": (dict(segmentation=[[[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12]]]), "malformed"),
    "polygon of 10^9": (dict(segmentation=[[0, 0, 1e9, 0, 1e9, 1e9, 0, 1e9]]), "malformed"),
    "polygon of 10^999": (dict(segmentation=[[0, 0, 10**999, 0, 9, 9]]), "malformed"),
    "endless polygon": (dict(segmentation=[[0, 0, 64, 64] * 1000]), "malformed"),
    "NaN in a polygon": (dict(segmentation=[[0, 0, math.nan, 0, 9, 9]]), "malformed"),
    "box of 10^999": (dict(bbox=[0, 0, 10**999, 9]), "not four finite numbers"),
    "list for an image": (dict(image_id=[10]), "an id that is neither a number nor a text"),
    "text for an area": (dict(area="12"), "an area that is no finite number"),
    "crowd of two": (dict(iscrowd=2), "another iscrowd than 0 and 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_annotation_is_left_out(coco, fault, caplog):
    change, words = FAULTS[fault]
    first, *others = coco.content["annotations"]
    faulty = {key: value for key, value in {**first, **change}.items() if value is not ...}
    path = coco(annotations=[faulty, *others])
    assert read_annotations(path).annotations == others
    with pytest.raises(DataError, match=rf"annotation 1 of .*train.json has .*{words}.*bad_annotations='skip'"):
        read_annotations(path, "raise")


def add_up(counts, pixels):
    """Say whether compressed run lengths add up to a number of pixels, read as COCO's maskApi.c reads them."""
    lengths, value, shift = [], 0, 0
    for byte in counts.encode():
        if not 0 <= byte - 48 < 64:
            return False
        value |= (byte - 48 & 31) << shift
        shift += 5
        if not byte - 48 & 32:
            value -= (1 << shift) if byte - 48 & 16 else 0
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return not shift and bool(lengths) and min(lengths) >= 0 and sum(lengths) == pixels


def test_run_lengths_are_taken_if_they_add_up():
    """Those that are taken are decoded to a mask of the image's size, which has the same run lengths."""
    draw, taken = np.random.RandomState(0), 0
    for number in range(600):
        height, width = draw.randint(1, 60, 2).tolist()
        mask = np.repeat(draw.rand(height, width) < draw.rand(), draw.randint(1, 9), axis=1)[:, :width]
        counts = list(blobs.encode(mask)["counts"])
        for _ in range(number % 3):
            place = draw.randint(len(counts))
            counts[place : place + draw.randint(2)] = draw.choice(list("0123NOPQ_`no¤"), draw.randint(2))
        counts = "".join(counts)
        code = {"size": [height, width], "counts": counts}
        assert is_mask(code, height, width) == add_up(counts, height * width), (counts, height, width)
        if is_mask(code, height, width):
            taken += 1
            decoded = codec.decode(code)
            assert number % 3 or np.array_equal(decoded, mask)
            assert codec.area(code) == decoded.sum()
    assert taken > 200


def test_a_mask_has_to_add_up_without_compression():
    assert is_mask({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3)
    for counts in ([], [7], [-1, 7], [6.0], [True, 5], [1 << 40, 6], 6, None):
        assert not is_mask({"size": [2, 3], "counts": counts}, 2, 3), counts


def test_polygons_of_regions_are_taken(coco):
    """Also those that a tool drew with a point a pixel, or somewhat beyond the border."""
    fine = [[v for t in np.linspace(0, 2 * np.pi, 2000) for v in (32 + 30 * np.cos(t), 32 + 30 * np.sin(t))]]
    comb = [[v for x in range(64) for v in ((x, 0, x, 64) if x % 2 else (x, 64, x, 0))] + [64, 65, -1, 65]]
    for polygon in (fine, comb, [[-20, -20, 90, -20, 90, 90.5]]):
        assert is_mask(polygon, 64, 64)


@pytest.mark.parametrize("size", [10**9, 0, -4, 2.5, "64", None, 10**999])
def test_an_image_of_no_possible_size(coco, size):
    first, *others = coco.content["images"]
    with pytest.raises(DataError, match=r"train.json says that 0.jpg has .* pixels"):
        read_annotations(coco(images=[{**first, "width": size}, *others]))


@pytest.mark.parametrize("key", ["images", "categories"])
def test_an_id_that_is_no_id(coco, key):
    first, *others = coco.content[key]
    with pytest.raises(DataError, match=f"an id of '{key}' is neither a number nor a text"):
        read_annotations(coco(**{key: [{**first, "id": [1]}, *others]}))


class Lines(logging.Handler):
    """Keeps the lines that are logged."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def test_faults_are_counted_by_kind(coco):
    first, second, third, *others = coco.content["annotations"]
    path = coco(annotations=["x", {**first, "image_id": 7}, {**second, "image_id": 8}, third, third, *others])
    logger, handler = MMLogger.get_current_instance(), Lines()
    logger.addHandler(handler)
    try:
        assert len(read_annotations(path).annotations) == len(others) + 1
    finally:
        logger.removeHandler(handler)
    lines = handler.texts
    assert len(lines) == 1
    assert "4 of 14 annotations" in lines[0]
    assert "1 with id, image_id, category_id or bbox missing (first: at place 0)" in lines[0]
    assert "2 with an unknown image (first: 1)" in lines[0]
    assert "1 with an id that is taken (first: 3)" in lines[0]


def test_what_can_be_filled_in_is(coco):
    bare = [{k: a[k] for k in ("id", "image_id", "category_id", "bbox")} for a in coco.content["annotations"]]
    annotation = read_annotations(coco(annotations=bare)).annotations[0]
    assert annotation["iscrowd"] == 0
    assert annotation["area"] == annotation["bbox"][2] * annotation["bbox"][3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no annotation file .*prepare_data.py"),
        ("", "cannot read the annotation file"),
        ('{"images": [', "cannot read the annotation file"),
        ("[]", "has no list 'images'"),
        ('{"images": [], "annotations": [], "categories": []}', "is empty: it has no images"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "'images' lacks id or file_name"),
        ('{"images": [{"id": 1, "file_name": "a", "height": 1, "width": 1}], "annotations": []}', "'categories'"),
    ],
    ids=["missing", "empty", "cut off", "list", "no images", "no names", "no categories"],
)
def test_not_an_annotation_file(tmp_path, text, words):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_annotations(path)


def test_two_images_of_one_id(coco):
    with pytest.raises(DataError, match="two images of the same id"):
        read_annotations(coco(images=[*coco.content["images"], coco.content["images"][0]]))


def test_wrong_switch(coco):
    with pytest.raises(ConfigError, match="bad_annotations is 'skip' or 'raise'"):
        read_annotations(coco.path, "ignore")


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
    with pytest.raises(DataError, match=r"in the order of .*train.json: disc, box"):
        dataset(coco.root, metainfo=dict(classes=["box", "disc"]))


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


def test_only_predicted_images_count(coco):
    # The images without a prediction stand for those that could not be read.
    assert evaluate(coco, perfect_samples(coco.content, IMAGES[:2]))["coco/segm_mAP"] == 1.0


def test_nothing_found(coco):
    nothing = {**coco.content, "annotations": []}
    result = evaluate(coco, perfect_samples(nothing, IMAGES))
    assert result == {"coco/bbox_mAP": 0.0, "coco/segm_mAP": 0.0}


def test_faulty_annotations_do_not_stop_the_metric(coco):
    faulty = [{**coco.content["annotations"][0], "id": 1000, "bbox": [1, 2]}, {"id": 1001}]
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

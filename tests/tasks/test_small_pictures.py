"""Pictures of small images are enlarged, and what is drawn over them with the images."""

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from PIL import Image
from pycocotools import mask as codec
from small_tasks import TASKS

from ssm_train.runtime.config import load_config
from ssm_train.tasks import image_task_of
from ssm_train.tasks.base import Labels

LEFT, TOP, RIGHT, BOTTOM = BOX = (8, 20, 40, 36)
SIDE, FACTOR = 48, 11  # 11 × 48 is the first multiple from 512 on


@pytest.fixture
def grey(tmp_path):
    Image.new("RGB", (SIDE, SIDE), (120, 120, 120)).save(tmp_path / "grey.png")
    return tmp_path / "grey.png"


def task_of(kind, folder, *options):
    small = TASKS[kind](folder / "data")
    return image_task_of(load_config(small.config, [*small.options, *options]))


def pixels_of(box=BOX, side=SIDE):
    """Say of every pixel whether it is in the box."""
    inside = np.zeros((side, side), bool)
    inside[box[1] : box[3], box[0] : box[2]] = True
    return inside


def changed(path):
    """Say of every pixel of a picture whether it is no longer grey."""
    return (np.asarray(Image.open(path).convert("RGB")) != 120).any(-1)


@pytest.mark.parametrize("encoded", [True, False])
def test_boxes_and_masks(tmp_path, grey, encoded):
    mask = pixels_of()
    found = InstanceData(bboxes=torch.tensor([BOX]).float(), scores=torch.ones(1), labels=torch.zeros(1).long())
    found.masks = [codec.encode(np.asfortranarray(mask, np.uint8))] if encoded else torch.from_numpy(mask)[None]
    sample = DetDataSample(metainfo={"ori_shape": (SIDE, SIDE), "img_path": str(grey)}, pred_instances=found)
    task_of("detection", tmp_path).draw(
        grey, sample, Labels(["disc", "box"], [(255, 0, 0), (0, 0, 255)]), tmp_path / "out"
    )
    drawn = changed(tmp_path / "out.png")
    assert drawn.shape == (SIDE * FACTOR, SIDE * FACTOR)
    inside = np.kron(mask, np.ones((FACTOR, FACTOR), bool))
    assert drawn[inside].all(), "the whole mask is coloured"
    near = pixels_of([LEFT * FACTOR - 4, TOP * FACTOR - 24, RIGHT * FACTOR + 4, BOTTOM * FACTOR + 4], SIDE * FACTOR)
    assert not drawn[~near].any(), "nothing is drawn elsewhere"
    assert torch.equal(found.bboxes, torch.tensor([BOX]).float()), "the prediction stays what it is"


def test_label_maps(tmp_path, grey):
    labels = pixels_of().astype(np.int64)
    sample = SegDataSample(pred_sem_seg=PixelData(data=torch.from_numpy(labels)[None]))
    task = task_of("segmentation", tmp_path, "visualizer.alpha=1.0")
    task.draw(grey, sample, Labels(["ground", "disc"], [(120, 120, 120), (0, 0, 255)]), tmp_path / "out")
    picture = np.asarray(Image.open(tmp_path / "out.png"))
    assert picture.shape[1] == SIDE * FACTOR
    blue = (picture[: SIDE * FACTOR] == (0, 0, 255)).all(-1)
    inside = np.kron(labels.astype(bool), np.ones((FACTOR, FACTOR), bool))
    assert not blue[~inside].any()
    assert blue[inside].mean() > 0.95, "the edges are lines, and the names are below the image"
    assert (picture[SIDE * FACTOR :] == (0, 0, 255)).all(-1).sum() > 50, "the legend has the colour"
    assert np.asarray(Image.open(tmp_path / "out_labels.png")).shape == (SIDE, SIDE)


def test_annotations_of_samples(tmp_path):
    """They are drawn where they are in the enlarged sample."""
    task = task_of("detection", tmp_path)
    masks = torch.from_numpy(pixels_of())[None]
    true = InstanceData(bboxes=torch.tensor([BOX]).float(), labels=torch.zeros(1).long(), masks=masks.numpy())
    resized = task.resized(DetDataSample(gt_instances=true), (SIDE, SIDE), (SIDE * 3, SIDE * 2))
    assert resized.gt_instances.bboxes.tolist() == [[LEFT * 2, TOP * 3, RIGHT * 2, BOTTOM * 3]]
    assert np.array_equal(resized.gt_instances.masks[0], np.kron(masks[0], np.ones((3, 2), bool)))
    assert resized.gt_instances.labels.tolist() == [0]


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 20), (1664, 520)), ((700, 512), (700, 512)), ((1500, 100), (1500, 100)),
                           ((9000, 30), (2048, 6)), ((511, 600), (1022, 1200)), ((1, 1), (512, 512))]
)  # fmt: skip
def test_sizes(tmp_path, size, expected):
    task = task_of("detection", tmp_path)
    picture, _ = task._at_legible_size(Image.new("RGB", size), DetDataSample())
    assert picture.size == expected

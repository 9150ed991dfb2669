"""Detection images of one shape: their boxes and masks stay on the objects, and a network is compiled once."""

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks

from ssm_core.errors import ConfigError
from ssm_train.tasks.detection import FixedSize

SHAPES = [(50, 80), (80, 50), (64, 64), (37, 200), (300, 20)]


def sample(height, width):
    """Return an image with one light rectangle, whose box and mask are known."""
    image = np.zeros((height, width, 3), np.uint8)
    top, bottom, left, right = height // 4, height // 2 + 2, width // 5, width // 2 + 3
    image[top:bottom, left:right] = 255
    box = HorizontalBoxes(torch.tensor([[left, top, right, bottom]], dtype=torch.float32))
    masks = BitmapMasks((image[None, ..., 0] > 0).astype(np.uint8), height, width)
    return dict(
        img=image, img_shape=(height, width), ori_shape=(height, width), gt_bboxes=box, gt_masks=masks,
        gt_bboxes_labels=np.array([0]), gt_ignore_flags=np.array([False]),
    )  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_letterbox_keeps_the_whole_image(shape):
    found = FixedSize((64, 96))(sample(*shape))
    assert found["img"].shape == (64, 96, 3)
    height, width = found["img_shape"]
    assert (height == 64) or (width == 96)
    assert abs(height / width / (shape[0] / shape[1]) - 1) < 0.15, "the aspect ratio stays, up to a pixel"
    assert (found["img"][height:] == 114).all()
    assert (found["img"][:, width:] == 114).all()
    light = found["img"][:height, :width, 0] > 127
    rows, columns = light.any(1).nonzero()[0], light.any(0).nonzero()[0]
    measured = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert np.abs(found["gt_bboxes"].tensor[0].numpy() - measured).max() <= 1
    mask = found["gt_masks"].masks[0]
    assert mask.shape == (64, 96)
    assert (mask[:height, :width].astype(bool) ^ light).sum() <= 2 * (rows.size + columns.size), (
        "a pixel along the outline"
    )
    # Boxes are scaled back by what the sample says.
    back = found["gt_bboxes"].tensor[0].numpy() / np.tile(found["scale_factor"], 2)
    assert np.allclose(back, sample(*shape)["gt_bboxes"].tensor[0].numpy(), atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_crop_fills_the_shape(shape):
    for seed in range(5):
        np.random.seed(seed)
        found = FixedSize((64, 96), crop=True)(sample(*shape))
        assert found["img"].shape[:2] == tuple(found["img_shape"]) == (64, 96)
        light = found["img"][..., 0] > 127
        if not len(found["gt_bboxes"]):
            assert light.sum() <= 2 * 96, "the object is outside"
            continue
        rows, columns = light.any(1).nonzero()[0], light.any(0).nonzero()[0]
        measured = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(found["gt_bboxes"].tensor[0].numpy() - measured).max() <= 3, "up to the blur of enlarging"
        assert found["gt_masks"].masks[0].shape == (64, 96)


def test_many_channels():
    image = np.random.default_rng(0).uniform(0, 255, (40, 30, 6)).astype(np.float32)
    found = FixedSize((32, 64), fill=7)(dict(img=image, img_shape=(40, 30), ori_shape=(40, 30)))
    assert found["img"].shape == (32, 64, 6)
    assert (found["img"][:, 24:] == 7).all()


@pytest.mark.parametrize("size", [(64,), (64, 0), (64.0, 32), 64])
def test_a_size_that_is_none(size):
    with pytest.raises((ConfigError, TypeError)):
        FixedSize(size)


@pytest.mark.parametrize("fill", [300, -5, float("nan"), "grey", None])
def test_a_fill_that_is_no_value_of_a_pixel(fill):
    with pytest.raises(ConfigError, match="fill is a number from 0 to 255"):
        FixedSize((64, 96), fill=fill)

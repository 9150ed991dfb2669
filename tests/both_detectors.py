"""Makes small detectors, ours and mmdet's, and annotated images for them."""

import copy

import numpy as np
import torch
from command_line import CONFIGS
from mmdet.models.detectors import MaskRCNN
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from ssm_train.registry import MODELS

SHAPES = ((128, 160), (100, 160), (128, 130))  # of images; the last has anchors beyond its padding
COUNTS = (3, 0, 5)  # objects of the images
CHANNELS = 16
PLAIN = {"FastTwoStageDetector": MaskRCNN, "FastRPNHead": "RPNHead", "FastRoIHead": "StandardRoIHead",
         "FastCascadeRoIHead": "CascadeRoIHead"}  # fmt: skip


def narrow(name, **changes):
    """The model of a config with a small ResNet and narrow heads."""
    cfg = Config.fromfile(CONFIGS / "_base_" / "models" / f"{name}.py")
    model = cfg.model
    norm = {"type": "BN"}
    model.backbone = {"type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": (0, 1, 2, 3), "norm_cfg": norm}
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=CHANNELS)
    model.rpn_head.update(in_channels=CHANNELS, feat_channels=CHANNELS)
    heads = model.roi_head
    for extractor in ("bbox_roi_extractor", "mask_roi_extractor"):
        if heads[extractor] is not None:
            heads[extractor].out_channels = CHANNELS
    boxes = heads.bbox_head if isinstance(heads.bbox_head, list) else [heads.bbox_head]
    for head in boxes:
        head.update(in_channels=CHANNELS, fc_out_channels=32, num_classes=4)
    if heads.mask_head is not None:
        heads.mask_head.update(in_channels=CHANNELS, conv_out_channels=CHANNELS, num_classes=4)
    if not isinstance(model.train_cfg.rcnn, list):
        # Later stages of a cascade take all boxes of the one before, so that their order does not matter.
        model.train_cfg.rcnn.sampler.num = 96
    cfg.merge_from_dict({f"model.{key}": value for key, value in changes.items()})
    return cfg.model


def built(model):
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(copy.deepcopy(model))


def mmdets(model, detector=MaskRCNN):
    """The same model with mmdet's classes."""
    model = copy.deepcopy(model)
    model.type = detector
    for part in (model.rpn_head, model.roi_head):
        part.type = PLAIN[part.type.split(".")[-1]]
    return model


def pair(name, detector=MaskRCNN, **changes):
    """Our detector and mmdet's with the same weights, in float64."""
    model = narrow(name, **changes)
    torch.manual_seed(0)
    theirs, ours = built(mmdets(model, detector)), built(model)
    for parameter in theirs.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    ours.load_state_dict(theirs.state_dict())
    return ours.double().train(), theirs.double().train()


def draw_samples(counts=COUNTS, dtype=torch.float64, masks=True):
    draw, height, width = np.random.RandomState(1), 128, 160
    samples = []
    for count, (own_height, own_width) in zip(counts, SHAPES, strict=True):
        corners = draw.uniform(0, 90, (count, 2))
        ends = np.minimum(corners + draw.uniform(10, 60, (count, 2)), [own_width, own_height])
        boxes = np.concatenate([corners, ends], 1)
        pixels = np.zeros((count, height, width), np.uint8)
        for number, (left, top, right, bottom) in enumerate(boxes.astype(int)):
            pixels[number, top:bottom, left:right] = draw.rand(bottom - top, right - left) > 0.3
        padded = (own_height + -own_height % 32, own_width + -own_width % 32)
        sample = DetDataSample(metainfo={"img_shape": (own_height, own_width), "pad_shape": padded})
        labels = torch.from_numpy(draw.randint(0, 4, count))
        sample.gt_instances = InstanceData(bboxes=torch.from_numpy(boxes).to(dtype), labels=labels)
        if masks:
            sample.gt_instances.masks = BitmapMasks(pixels, height, width)
        samples.append(sample)
    return samples


def loaded(masks=True):
    """What mmdet's pipelines load: images without padding, boxes of mmdet's type and masks of the size of the image."""
    samples = []
    for number, annotated in enumerate(draw_samples(dtype=torch.float32, masks=masks)):
        height, width = annotated.img_shape
        objects = annotated.gt_instances
        objects.bboxes = HorizontalBoxes(objects.bboxes)
        if masks:
            objects.masks = BitmapMasks(objects.masks.masks[:, :height, :width], height, width)
        annotated.ignored_instances = InstanceData(bboxes=HorizontalBoxes(torch.zeros(number % 2, 4)))
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.manual_seed(number))
        samples.append({"inputs": image, "data_samples": annotated})
    return samples


SETTINGS = {"mean": [100.0, 110.0, 120.0], "std": [50.0, 60.0, 70.0], "bgr_to_rgb": True, "pad_mask": True,
            "pad_size_divisor": 32, "pad_value": 3}  # fmt: skip

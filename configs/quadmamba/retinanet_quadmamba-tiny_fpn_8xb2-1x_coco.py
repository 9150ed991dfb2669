# Starts from ImageNet weights; load_from=none starts from random ones.
_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/coco_boxes.py",
    "../_base_/schedules/coco_12e.py",
    "../_base_/detection_runtime.py",
]

from quadtree_ssm import models

model = dict(
    backbone=dict(type="quadtree_ssm.QuadMamba", arch="tiny"),
    neck=dict(in_channels=list(models.ARCHITECTURES["tiny"].dims[1:])),
)
load_from = "checkpoints/quadmamba-tiny_in1k.pth"

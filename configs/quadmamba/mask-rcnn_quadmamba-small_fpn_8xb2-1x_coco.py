# Starts from ImageNet weights; load_from=none starts from random ones.
_base_ = [
    "../_base_/models/mask-rcnn_fpn_coco.py",
    "../_base_/datasets/coco_instances.py",
    "../_base_/schedules/coco_12e.py",
    "../_base_/detection_runtime.py",
]

from quadtree_ssm import models

model = dict(
    backbone=dict(type="quadtree_ssm.QuadMamba", arch="small"),
    neck=dict(in_channels=list(models.ARCHITECTURES["small"].dims)),
)
load_from = "checkpoints/quadmamba-small_in1k.pth"

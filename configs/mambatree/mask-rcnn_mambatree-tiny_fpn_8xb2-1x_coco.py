# Starts from ImageNet weights; load_from=none starts from random ones.
_base_ = [
    "../_base_/models/mask-rcnn_fpn_coco.py",
    "../_base_/datasets/coco_instances.py",
    "../_base_/schedules/coco_12e.py",
    "../_base_/detection_runtime.py",
]

from tree_ssm import models

model = dict(
    backbone=dict(type="tree_ssm.MambaTreeV", arch="tiny"),
    neck=dict(in_channels=list(models.ARCHITECTURES["tiny"].dims)),
)
load_from = "checkpoints/mambatree-tiny_in1k.pth"

_base_ = [
    "../_base_/models/mask-rcnn_fpn_light.py",
    "../_base_/datasets/composite_256_instances.py",
    "../_base_/schedules/detection_2e.py",
    "../_base_/detection_runtime.py",
]

from quadtree_ssm import models

model = dict(
    backbone=dict(type="quadtree_ssm.QuadMamba", arch="lite", drop_path_rate=0.0),
    neck=dict(in_channels=list(models.ARCHITECTURES["lite"].dims)),
)

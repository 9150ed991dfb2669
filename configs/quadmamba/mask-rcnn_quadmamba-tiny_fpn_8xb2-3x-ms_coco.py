# Starts from ImageNet weights; load_from=none starts from nothing.
_base_ = [
    "../_base_/models/mask-rcnn_fpn.py",
    "../_base_/datasets/coco_instances_multi-scale.py",
    "../_base_/schedules/coco_36e.py",
    "../_base_/detection_runtime.py",
]
model = dict(
    backbone=dict(_delete_=True, type="quadtree_ssm.QuadMamba", arch="tiny", out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
load_from = "checkpoints/quadmamba-tiny_in1k.pth"

# Starts from ImageNet weights; load_from=none starts from nothing.
_base_ = [
    "../_base_/models/mask-rcnn_fpn.py",
    "../_base_/datasets/coco_instances.py",
    "../_base_/schedules/coco_12e.py",
    "../_base_/detection_runtime.py",
]
model = dict(
    backbone=dict(_delete_=True, type="tree_ssm.MambaTreeV", arch="base", out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
load_from = "checkpoints/mambatree-base_in1k.pth"

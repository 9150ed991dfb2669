# Published: 48.6 box AP, 43.6 mask AP (the authors'). Starts from ImageNet weights; load_from=none starts from nothing.
_base_ = [
    "../_base_/models/mask-rcnn_fpn.py",
    "../_base_/datasets/coco_instances.py",
    "../_base_/schedules/coco_12e.py",
    "../_base_/detection_runtime.py",
]
model = dict(
    backbone=dict(_delete_=True, type="tree_ssm.MambaTreeV", arch="small", out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
load_from = "checkpoints/mambatree-small_in1k.pth"

# Starts from ImageNet weights; load_from=none starts from nothing.
_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/ade20k_512.py",
    "../_base_/schedules/segmentation_160k.py",
    "../_base_/segmentation_runtime.py",
]
model = dict(
    backbone=dict(_delete_=True, type="quadtree_ssm.QuadMamba", arch="small", out_indices=(0, 1, 2, 3)),
)
load_from = "checkpoints/quadmamba-small_in1k.pth"

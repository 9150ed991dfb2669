# The recipe of ADE20K at Cityscapes' crop.
# Starts from ImageNet weights; load_from=none starts from random ones.
_base_ = [
    "../_base_/models/upernet_cityscapes.py",
    "../_base_/datasets/cityscapes_512x1024.py",
    "../_base_/schedules/segmentation_160k.py",
    "../_base_/segmentation_runtime.py",
]

from quadtree_ssm import models

model = dict(
    backbone=dict(type="quadtree_ssm.QuadMamba", arch="small"),
    decode_head=dict(in_channels=list(models.ARCHITECTURES["small"].dims)),
    auxiliary_head=dict(in_channels=models.ARCHITECTURES["small"].dims[2]),
)
load_from = "checkpoints/quadmamba-small_in1k.pth"

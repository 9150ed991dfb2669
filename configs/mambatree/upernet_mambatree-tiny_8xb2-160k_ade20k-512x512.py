# Starts from ImageNet weights; load_from=none starts from random ones.
_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/ade20k_512.py",
    "../_base_/schedules/segmentation_160k.py",
    "../_base_/segmentation_runtime.py",
]

from tree_ssm import models

model = dict(
    backbone=dict(type="tree_ssm.MambaTreeV", arch="tiny"),
    decode_head=dict(in_channels=list(models.ARCHITECTURES["tiny"].dims)),
    auxiliary_head=dict(in_channels=models.ARCHITECTURES["tiny"].dims[2]),
)
load_from = "checkpoints/mambatree-tiny_in1k.pth"

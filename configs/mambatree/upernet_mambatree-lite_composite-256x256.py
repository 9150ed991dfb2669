_base_ = [
    "../_base_/models/upernet_light.py",
    "../_base_/datasets/composite_256_segmentation.py",
    "../_base_/schedules/segmentation_6k.py",
    "../_base_/segmentation_runtime.py",
]

from tree_ssm import models

model = dict(
    backbone=dict(type="tree_ssm.MambaTreeV", arch="lite", drop_path_rate=0.0),
    decode_head=dict(in_channels=list(models.ARCHITECTURES["lite"].dims)),
    auxiliary_head=dict(in_channels=models.ARCHITECTURES["lite"].dims[2]),
)
default_hooks = dict(checkpoint=dict(interval=2000))

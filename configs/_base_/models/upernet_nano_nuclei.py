# UPerNet small enough for a CPU. A leaf config names the family. The nano backbones of both families have these widths.
_base_ = "./upernet_light.py"

from quadtree_ssm import models

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(arch="nano"),
    decode_head=dict(in_channels=list(models.ARCHITECTURES["nano"].dims), num_classes=3),
    auxiliary_head=dict(in_channels=models.ARCHITECTURES["nano"].dims[2], num_classes=3),
    test_cfg=dict(crop_size=(128, 128), stride=(85, 85)),
)

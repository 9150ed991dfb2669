# The network of quadmamba-nano_fmnist-20k.py, for images in colours.
_base_ = "../_base_/composite_128_segmentation.py"

from quadtree_ssm import models

model = dict(
    backbone=dict(type="quadtree_ssm.QuadMamba", arch="nano", depths=(2, 2, 2, 1)),
    decode_head=dict(in_channels=list(models.ARCHITECTURES["nano"].dims)),
    auxiliary_head=dict(in_channels=models.ARCHITECTURES["nano"].dims[2]),
)

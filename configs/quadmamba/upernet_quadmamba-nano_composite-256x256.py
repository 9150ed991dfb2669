# The heads are narrower than those of the lite model, so that the weights take at most 6 MB in float16.
_base_ = "./upernet_quadmamba-lite_composite-256x256.py"

from quadtree_ssm import models

model = dict(
    backbone=dict(arch="nano"),
    decode_head=dict(channels=96, in_channels=list(models.ARCHITECTURES["nano"].dims)),
    auxiliary_head=dict(channels=48, in_channels=models.ARCHITECTURES["nano"].dims[2]),
)

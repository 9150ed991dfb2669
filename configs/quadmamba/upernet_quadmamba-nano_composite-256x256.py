# The heads are narrower than those of the lite model, so that the weights take at most 6 MB in float16.
_base_ = "./upernet_quadmamba-lite_composite-256x256.py"

from quadtree_ssm import models

model = dict(
    backbone=dict(arch="nano"),
    decode_head=dict(channels=96, in_channels=list(models.ARCHITECTURES["nano"].dims)),
    auxiliary_head=dict(channels=48, in_channels=models.ARCHITECTURES["nano"].dims[2]),
)
# 4,000 iterations instead of 6,000: some five passes over the images.
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, begin=0, end=250),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=250, end=4000),
]
train_cfg = dict(max_iters=4000)

_base_ = "./upernet_quadmamba-small_8xb2-160k_ade20k-512x512.py"

from quadtree_ssm import models

model = dict(
    backbone=dict(arch="tiny"),
    decode_head=dict(in_channels=list(models.ARCHITECTURES["tiny"].dims)),
    auxiliary_head=dict(in_channels=models.ARCHITECTURES["tiny"].dims[2]),
)
load_from = "checkpoints/quadmamba-tiny_in1k.pth"

_base_ = "./upernet_mambatree-tiny_8xb2-160k_ade20k-512x512.py"

from tree_ssm import models

model = dict(
    backbone=dict(arch="small"),
    decode_head=dict(in_channels=list(models.ARCHITECTURES["small"].dims)),
    auxiliary_head=dict(in_channels=models.ARCHITECTURES["small"].dims[2]),
)
load_from = "checkpoints/mambatree-small_in1k.pth"

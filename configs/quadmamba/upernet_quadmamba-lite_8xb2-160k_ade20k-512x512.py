# Starts from ImageNet weights; load_from=none starts from nothing.
_base_ = "./upernet_quadmamba-small_8xb2-160k_ade20k-512x512.py"
model = dict(
    backbone=dict(arch="lite"),
    decode_head=dict(in_channels=[48, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192),
)
load_from = "checkpoints/quadmamba-lite_in1k.pth"

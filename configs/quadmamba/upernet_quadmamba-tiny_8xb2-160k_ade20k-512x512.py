# Starts from ImageNet weights; load_from=none starts from nothing.
_base_ = "./upernet_quadmamba-small_8xb2-160k_ade20k-512x512.py"
model = dict(
    backbone=dict(arch="tiny"),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
load_from = "checkpoints/quadmamba-tiny_in1k.pth"

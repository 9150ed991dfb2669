# Starts from ImageNet weights; load_from=none starts from nothing.
_base_ = "./upernet_mambatree-tiny_8xb2-160k_ade20k-512x512.py"
model = dict(
    backbone=dict(arch="base"),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
load_from = "checkpoints/mambatree-base_in1k.pth"

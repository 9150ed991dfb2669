# Published: 50.7 mIoU, 51.7 with multi-scale test (the authors').
# Starts from ImageNet weights; load_from=none starts from nothing.
_base_ = "./upernet_mambatree-tiny_8xb2-160k_ade20k-512x512.py"
model = dict(
    backbone=dict(arch="small"),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
load_from = "checkpoints/mambatree-small_in1k.pth"

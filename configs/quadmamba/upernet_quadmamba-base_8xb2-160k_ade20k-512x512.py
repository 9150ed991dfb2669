# Starts from ImageNet weights; load_from=none starts from nothing.
_base_ = "./upernet_quadmamba-small_8xb2-160k_ade20k-512x512.py"
model = dict(backbone=dict(arch="base"))
load_from = "checkpoints/quadmamba-base_in1k.pth"

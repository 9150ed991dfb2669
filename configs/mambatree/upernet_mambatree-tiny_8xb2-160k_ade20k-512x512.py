# Published: 48.5 mIoU, 49.4 with multi-scale test (the authors').
# Starts from ImageNet weights; load_from=none starts from nothing.
_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/ade20k_512.py",
    "../_base_/schedules/segmentation_160k.py",
    "../_base_/segmentation_runtime.py",
]
model = dict(
    backbone=dict(_delete_=True, type="tree_ssm.MambaTreeV", arch="tiny", out_indices=(0, 1, 2, 3)),
    decode_head=dict(in_channels=[80, 160, 320, 640]),
    auxiliary_head=dict(in_channels=320),
)
load_from = "checkpoints/mambatree-tiny_in1k.pth"

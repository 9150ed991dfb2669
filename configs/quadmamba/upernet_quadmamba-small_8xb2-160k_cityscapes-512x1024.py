# The recipe of ADE20K at Cityscapes' crop.
# Starts from ImageNet weights; load_from=none starts from nothing.
_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/cityscapes_512x1024.py",
    "../_base_/schedules/segmentation_160k.py",
    "../_base_/segmentation_runtime.py",
]
model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    backbone=dict(_delete_=True, type="quadtree_ssm.QuadMamba", arch="small", out_indices=(0, 1, 2, 3)),
    decode_head=dict(in_channels=[96, 192, 384, 768], num_classes=19),
    auxiliary_head=dict(in_channels=384, num_classes=19),
    test_cfg=dict(crop_size=(512, 1024), stride=(341, 683)),
)
load_from = "checkpoints/quadmamba-small_in1k.pth"

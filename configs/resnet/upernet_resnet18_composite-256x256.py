# The control is mmseg's ResNet-18. It trains from random weights with the recipe of our models.
_base_ = [
    "../_base_/models/upernet_light.py",
    "../_base_/datasets/composite_256_segmentation.py",
    "../_base_/schedules/segmentation_6k.py",
    "../_base_/segmentation_runtime.py",
]
model = dict(
    backbone=dict(type="ResNet", depth=18, num_stages=4, norm_cfg=dict(type="SyncBN"), norm_eval=False),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
default_hooks = dict(checkpoint=dict(interval=2000))

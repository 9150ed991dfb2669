# The control is mmdet's ResNet-18. It trains from random weights with the recipe of our models.
_base_ = [
    "../_base_/models/mask-rcnn_fpn_light.py",
    "../_base_/datasets/composite_256_instances.py",
    "../_base_/schedules/detection_2e.py",
    "../_base_/detection_runtime.py",
]
model = dict(
    backbone=dict(
        type="ResNet",
        depth=18,
        num_stages=4,
        frozen_stages=-1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
        zero_init_residual=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

# The control: ResNet-18 from nothing, under the recipe of our models.
_base_ = [
    "../_base_/models/mask-rcnn_fpn_light.py",
    "../_base_/datasets/composite_256_instances.py",
    "../_base_/schedules/detection_2e.py",
    "../_base_/detection_runtime.py",
]
model = dict(
    backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, zero_init_residual=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512]),
    roi_head=dict(bbox_head=dict(num_classes=10), mask_head=dict(num_classes=10)),
)

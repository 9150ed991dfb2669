_base_ = [
    "../_base_/models/mask-rcnn_fpn_light.py",
    "../_base_/datasets/composite_256_instances.py",
    "../_base_/schedules/detection_2e.py",
    "../_base_/detection_runtime.py",
]
model = dict(
    backbone=dict(
        _delete_=True, type="quadtree_ssm.QuadMamba", arch="lite", drop_path_rate=0.0, out_indices=(0, 1, 2, 3)
    ),
    neck=dict(in_channels=[48, 96, 192, 384]),
    roi_head=dict(bbox_head=dict(num_classes=10), mask_head=dict(num_classes=10)),
)

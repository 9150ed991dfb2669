_base_ = [
    "../_base_/models/mask-rcnn_fpn_light.py",
    "../_base_/datasets/nuclei_128_instances.py",
    "../_base_/schedules/nuclei_40e.py",
    "../_base_/detection_runtime.py",
]
# Nuclei have about 20 pixels: anchors of 16 pixels and more.
model = dict(
    backbone=dict(
        _delete_=True,
        type="quadtree_ssm.QuadMamba",
        depths=(1, 1, 2, 1),
        dims=(32, 64, 128, 256),
        ssm_ratio=1.0,
        drop_path_rate=0.0,
        out_indices=(0, 1, 2, 3),
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, conv_out_channels=64, fc_out_channels=128, num_classes=1),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(in_channels=64, conv_out_channels=64, num_classes=1),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=200, max_per_img=100), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)
default_hooks = dict(logger=dict(interval=10), curves=dict(interval=10))

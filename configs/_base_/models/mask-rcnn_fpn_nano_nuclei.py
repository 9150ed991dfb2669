# Mask R-CNN small enough for a CPU, over a backbone of five blocks that the leaf configs name.
_base_ = "./mask-rcnn_fpn_light.py"
# Nuclei have about 20 pixels: anchors of 16 pixels and more.
model = dict(
    backbone=dict(
        _delete_=True,
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

# Mask R-CNN small enough for a CPU. A leaf config names the family. The nano backbones of both families have these
# widths.
# Nuclei measure about 20 pixels, so the anchors start at 16.
_base_ = "./mask-rcnn_fpn_light.py"

from quadtree_ssm import models

model = dict(
    backbone=dict(arch="nano"),
    neck=dict(in_channels=list(models.ARCHITECTURES["nano"].dims), out_channels=64),
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

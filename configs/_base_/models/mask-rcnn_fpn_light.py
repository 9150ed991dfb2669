# Mask R-CNN for small images of large objects, trained from random weights. It has half the usual width, four levels,
# anchors of 24 to 272 pixels and ten classes. Group norms in neck and heads make training from random weights possible
# (He, Girshick and Dollar 2019).
_base_ = "./mask-rcnn_fpn.py"
norm_cfg = dict(type="GN", num_groups=16)
model = dict(
    neck=dict(out_channels=128, num_outs=4, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=128, feat_channels=128, anchor_generator=dict(scales=[6, 8.5], strides=[4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=128),
        bbox_head=dict(
            type="Shared4Conv1FCBBoxHead",
            in_channels=128,
            conv_out_channels=128,
            fc_out_channels=512,
            num_classes=10,
            norm_cfg=norm_cfg,
        ),
        mask_roi_extractor=dict(out_channels=128),
        mask_head=dict(in_channels=128, conv_out_channels=128, num_classes=10, norm_cfg=norm_cfg),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=128)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)

# A quarter of Mask R-CNN's usual width, for small images of large objects and to be trained from nothing, which takes
# group norms in neck and heads (He, Girshick and Dollar 2019). Anchors of 24 and 34 to 192 and 272 pixels on four
# levels. The second stage assigns its some 200 boxes an image on the CPU (gpu_assign_thr): 0.3 ms of one core, where
# a GPU would want 50 launches and 7 waits. The first stage has 32,640 anchors, too many for that (2.4 ms).
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
            norm_cfg=norm_cfg,
        ),
        mask_roi_extractor=dict(out_channels=128),
        mask_head=dict(in_channels=128, conv_out_channels=128, norm_cfg=norm_cfg),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(assigner=dict(gpu_assign_thr=0.5), sampler=dict(num=128)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)

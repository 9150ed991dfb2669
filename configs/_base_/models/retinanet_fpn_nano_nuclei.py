# RetinaNet small enough for a CPU. A leaf config names the family. The nano backbones of both families have these
# widths. Nuclei measure about 20 pixels, so the anchors start at 16.
_base_ = "./retinanet_fpn.py"

from quadtree_ssm import models

norm_cfg = dict(type="GN", num_groups=16)
model = dict(
    backbone=dict(arch="nano"),
    neck=dict(in_channels=list(models.ARCHITECTURES["nano"].dims[1:]), out_channels=64, num_outs=3, norm_cfg=norm_cfg),
    bbox_head=dict(
        in_channels=64,
        feat_channels=64,
        num_classes=1,
        norm_cfg=norm_cfg,
        anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32]),
    ),
    test_cfg=dict(nms_pre=200),
)

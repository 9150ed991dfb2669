# FCOS small enough for a CPU. A leaf config names the family. The nano backbones of both families have these widths.
# Each level finds the objects whose sides are at most the numbers of its range in pixels.
_base_ = "./fcos_fpn.py"

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
        strides=[8, 16, 32],
        regress_ranges=((-1, 32), (32, 64), (64, 1e8)),
    ),
    test_cfg=dict(nms_pre=200),
)

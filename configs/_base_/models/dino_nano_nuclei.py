# DINO small enough for a CPU. A leaf config names the family. The nano backbones of both families have these widths. A
# tile has at most 30 nuclei.
_base_ = "./dino.py"

from quadtree_ssm import models

model = dict(
    num_queries=60,
    backbone=dict(arch="nano"),
    neck=dict(in_channels=list(models.ARCHITECTURES["nano"].dims[1:]), out_channels=64, norm_cfg=dict(num_groups=16)),
    encoder=dict(
        num_layers=2,
        layer_cfg=dict(self_attn_cfg=dict(embed_dims=64), ffn_cfg=dict(embed_dims=64, feedforward_channels=256)),
    ),
    decoder=dict(
        num_layers=2,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=64),
            cross_attn_cfg=dict(embed_dims=64),
            ffn_cfg=dict(embed_dims=64, feedforward_channels=256),
        ),
    ),
    positional_encoding=dict(num_feats=32),
    bbox_head=dict(num_classes=1, embed_dims=64),
    test_cfg=dict(max_per_img=60),
)

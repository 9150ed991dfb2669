_base_ = "./mask-rcnn_quadmamba-small_fpn_8xb2-3x-ms_coco.py"

from quadtree_ssm import models

model = dict(backbone=dict(arch="base"), neck=dict(in_channels=list(models.ARCHITECTURES["base"].dims)))
load_from = "checkpoints/quadmamba-base_in1k.pth"

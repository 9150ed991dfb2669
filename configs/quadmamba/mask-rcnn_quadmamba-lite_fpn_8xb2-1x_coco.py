_base_ = "./mask-rcnn_quadmamba-small_fpn_8xb2-1x_coco.py"

from quadtree_ssm import models

model = dict(backbone=dict(arch="lite"), neck=dict(in_channels=list(models.ARCHITECTURES["lite"].dims)))
load_from = "checkpoints/quadmamba-lite_in1k.pth"

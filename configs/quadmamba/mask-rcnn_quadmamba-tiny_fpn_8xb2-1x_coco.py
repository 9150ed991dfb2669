_base_ = "./mask-rcnn_quadmamba-small_fpn_8xb2-1x_coco.py"

from quadtree_ssm import models

model = dict(backbone=dict(arch="tiny"), neck=dict(in_channels=list(models.ARCHITECTURES["tiny"].dims)))
load_from = "checkpoints/quadmamba-tiny_in1k.pth"

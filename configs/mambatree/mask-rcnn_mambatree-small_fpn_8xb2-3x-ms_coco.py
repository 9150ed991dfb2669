_base_ = "./mask-rcnn_mambatree-tiny_fpn_8xb2-3x-ms_coco.py"

from tree_ssm import models

model = dict(backbone=dict(arch="small"), neck=dict(in_channels=list(models.ARCHITECTURES["small"].dims)))
load_from = "checkpoints/mambatree-small_in1k.pth"

_base_ = "../_base_/largest_item_128.py"
model = dict(backbone=dict(type="timm", name="resnet18"))

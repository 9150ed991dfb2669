_base_ = "../_base_/fashion_mnist_20k.py"
model = dict(backbone=dict(type="timm", name="resnet18"))

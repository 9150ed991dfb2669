# The control is timm's ResNet-18. It trains with the recipe of our models.
_base_ = [
    "../_base_/models/timm.py",
    "../_base_/datasets/digits_32.py",
    "../_base_/schedules/digits_25e.py",
    "../_base_/digits_runtime.py",
]
model = dict(backbone=dict(name="resnet18", in_chans=1, num_classes=10))

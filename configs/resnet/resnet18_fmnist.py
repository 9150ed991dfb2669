# The control: timm's ResNet-18 under the recipe of our models.
_base_ = [
    "../_base_/models/timm.py",
    "../_base_/datasets/fashion_mnist_64.py",
    "../_base_/schedules/fashion_mnist_90e.py",
    "../_base_/fashion_mnist_runtime.py",
]
model = dict(
    backbone=dict(name="resnet18", in_chans=1, num_classes=10),
    label_smoothing=0.1,
    mixup_alpha=0.2,
    cutmix_alpha=1.0,
    mix_prob=0.3,
)

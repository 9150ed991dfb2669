_base_ = [
    "../_base_/models/mambatree.py",
    "../_base_/datasets/fashion_mnist_64.py",
    "../_base_/schedules/fashion_mnist_90e.py",
    "../_base_/fashion_mnist_runtime.py",
]
model = dict(
    backbone=dict(depths=(2, 2, 4, 2), dims=(40, 80, 160, 320), in_chans=1, num_classes=10),
    label_smoothing=0.1,
    mixup_alpha=0.2,
    cutmix_alpha=1.0,
    mix_prob=0.3,
)

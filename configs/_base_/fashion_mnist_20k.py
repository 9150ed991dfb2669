# The first 20,000 training images of Fashion-MNIST, enlarged from 28x28 to 64x64, and eight epochs. All 10,000 test
# images are for testing. A leaf config adds the backbone.
_base_ = "./study_classification.py"

max_epochs, warmup = 8, 1
model = dict(backbone=dict(in_chans=1, num_classes=10))
train_dataloader = dict(
    batch_size=256,
    dataset=dict(
        images="data/fashion-mnist/train-images-idx3-ubyte.gz",
        labels="data/fashion-mnist/train-labels-idx1-ubyte.gz",
        first=20000,
        transform=dict(type="BatchTransform", size=64, mean=(0.2860,), std=(0.3530,)),
    ),
)
val_dataloader = dict(
    dataset=dict(
        images="data/fashion-mnist/t10k-images-idx3-ubyte.gz",
        labels="data/fashion-mnist/t10k-labels-idx1-ubyte.gz",
        transform=dict(type="TestTransform", size=64, crop_ratio=1.0, mean=(0.2860,), std=(0.3530,)),
    ),
)
test_dataloader = val_dataloader
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, begin=0, end=warmup, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-2, begin=warmup, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(type="ResumableEpochLoop", max_epochs=max_epochs, val_interval=max_epochs)
default_hooks = dict(checkpoint=dict(interval=max_epochs))

# Composited scenes of 128x128 by the class of their largest item, 10,000 for training and 4,000 for validation, and
# five epochs. docs/study.md has the commands that make them. Sizes, rotations and colours already vary in the scenes,
# so training only mirrors them. A leaf config adds the backbone.
_base_ = "./study_classification.py"

max_epochs, warmup = 5, 1
model = dict(backbone=dict(num_classes=10))
train_dataloader = dict(
    batch_size=128,
    dataset=dict(
        images="data/128px/largest-item/train_images.npy",
        labels="data/128px/largest-item/train_labels.npy",
        transform=dict(type="BatchTransform", size=128, scale=(1.0, 1.0)),
    ),
)
val_dataloader = dict(
    dataset=dict(
        images="data/128px/largest-item/val_images.npy",
        labels="data/128px/largest-item/val_labels.npy",
        transform=dict(type="TestTransform", size=128, crop_ratio=1.0),
    ),
)
test_dataloader = val_dataloader
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, begin=0, end=warmup, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-2, begin=warmup, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(type="ResumableEpochLoop", max_epochs=max_epochs, val_interval=max_epochs)
default_hooks = dict(checkpoint=dict(interval=max_epochs))

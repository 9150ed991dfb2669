# The authors' recipe. It differs from QuadMamba's in the schedule and in the tests. The cosine spans all 300 epochs,
# and the warm-up multiplies its beginning. Tests take the whole image.
_base_ = [
    "../_base_/models/mambatree.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_300e.py",
    "../_base_/classification_runtime.py",
]
model = dict(backbone=dict(arch="tiny"), label_smoothing=0.1, mixup_alpha=0.8, cutmix_alpha=1.0)
val_dataloader = dict(dataset=dict(transform=dict(crop_ratio=1.0)))
test_dataloader = val_dataloader
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, begin=0, end=20, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=0.0, begin=0, end=300, convert_to_iter_based=True),
]

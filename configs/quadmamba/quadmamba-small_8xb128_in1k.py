# The authors' recipe trains for 300 epochs with 8 x 128 images and lr 1e-3.
_base_ = [
    "../_base_/models/quadmamba.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_300e.py",
    "../_base_/classification_runtime.py",
]
model = dict(backbone=dict(arch="small"), label_smoothing=0.1, mixup_alpha=0.8, cutmix_alpha=1.0)

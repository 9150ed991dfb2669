_base_ = [
    "../_base_/models/quadmamba.py",
    "../_base_/datasets/digits_32.py",
    "../_base_/schedules/digits_25e.py",
    "../_base_/digits_runtime.py",
]
model = dict(backbone=dict(arch="nano", in_chans=1, num_classes=10))
default_hooks = dict(pictures=dict(count=2))

_base_ = [
    "../_base_/models/quadmamba.py",
    "../_base_/datasets/digits_32.py",
    "../_base_/schedules/digits_25e.py",
    "../_base_/classification_runtime.py",
]
model = dict(
    backbone=dict(
        depths=(1, 1, 2, 1), dims=(32, 64, 128, 256), ssm_ratio=1.0, drop_path_rate=0.0, in_chans=1, num_classes=10
    )
)
default_hooks = dict(logger=dict(interval=22), curves=dict(interval=11), pictures=dict(count=2))

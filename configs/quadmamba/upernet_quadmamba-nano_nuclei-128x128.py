_base_ = [
    "../_base_/models/upernet_nano_nuclei.py",
    "../_base_/datasets/nuclei_128_segmentation.py",
    "../_base_/schedules/segmentation_1k.py",
    "../_base_/segmentation_runtime.py",
]
model = dict(backbone=dict(type="quadtree_ssm.QuadMamba"))
default_hooks = dict(logger=dict(interval=25), curves=dict(interval=25), checkpoint=dict(interval=250))

_base_ = [
    "../_base_/models/dino_nano_nuclei.py",
    "../_base_/datasets/nuclei_128_boxes.py",
    "../_base_/schedules/dino_nuclei_40e.py",
    "../_base_/detection_runtime.py",
]
model = dict(backbone=dict(type="quadtree_ssm.QuadMamba"))
default_hooks = dict(logger=dict(interval=10), curves=dict(interval=10))

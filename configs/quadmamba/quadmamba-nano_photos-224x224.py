_base_ = [
    "../_base_/models/photos.py",
    "../_base_/datasets/photos_224.py",
    "../_base_/schedules/photos_30e.py",
    "../_base_/photos_runtime.py",
]
model = dict(backbone=dict(type="quadtree_ssm.QuadMamba", arch="nano"))

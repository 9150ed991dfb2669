# AdamW 6e-5, 8 x 2 images, 160k iterations. Start from an ImageNet checkpoint, ours or converted from a released one:
#   --cfg-options load_from=CHECKPOINT
_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/ade20k_512.py",
    "../_base_/schedules/segmentation_160k.py",
    "../_base_/segmentation_runtime.py",
]
model = dict(
    backbone=dict(_delete_=True, type="quadtree_ssm.QuadMamba", arch="small", out_indices=(0, 1, 2, 3)),
)

# AdamW 6e-5, 8 x 2 images, 160k iterations. Published: 48.5 mIoU, 49.4 with multi-scale test. Start from an ImageNet
# checkpoint, ours or converted from a released one: --cfg-options load_from=CHECKPOINT
_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/ade20k_512.py",
    "../_base_/schedules/segmentation_160k.py",
    "../_base_/segmentation_runtime.py",
]
model = dict(
    backbone=dict(_delete_=True, type="tree_ssm.MambaTreeV", arch="tiny", out_indices=(0, 1, 2, 3)),
    decode_head=dict(in_channels=[80, 160, 320, 640]),
    auxiliary_head=dict(in_channels=320),
)

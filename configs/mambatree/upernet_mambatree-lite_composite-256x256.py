_base_ = [
    "../_base_/models/upernet_light.py",
    "../_base_/datasets/composite_256_segmentation.py",
    "../_base_/schedules/segmentation_6k.py",
    "../_base_/segmentation_runtime.py",
]
model = dict(
    data_preprocessor=dict(size=(256, 256)),
    backbone=dict(
        _delete_=True,
        type="tree_ssm.MambaTreeV",
        depths=(2, 2, 4, 2),
        dims=(40, 80, 160, 320),
        drop_path_rate=0.0,
        out_indices=(0, 1, 2, 3),
    ),
    decode_head=dict(in_channels=[40, 80, 160, 320]),
    auxiliary_head=dict(in_channels=160),
    test_cfg=dict(crop_size=(256, 256), stride=(170, 170)),
)
default_hooks = dict(checkpoint=dict(interval=2000))

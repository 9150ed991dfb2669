_base_ = [
    "../_base_/models/upernet_light.py",
    "../_base_/datasets/nuclei_128_segmentation.py",
    "../_base_/schedules/segmentation_1k.py",
    "../_base_/segmentation_runtime.py",
]
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        _delete_=True,
        type="quadtree_ssm.QuadMamba",
        depths=(1, 1, 2, 1),
        dims=(32, 64, 128, 256),
        ssm_ratio=1.0,
        drop_path_rate=0.0,
        out_indices=(0, 1, 2, 3),
    ),
    decode_head=dict(in_channels=[32, 64, 128, 256], num_classes=3),
    auxiliary_head=dict(in_channels=128, num_classes=3),
    test_cfg=dict(crop_size=(128, 128), stride=(85, 85)),
)
default_hooks = dict(logger=dict(interval=25), curves=dict(interval=25), checkpoint=dict(interval=250))

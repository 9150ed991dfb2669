# UPerNet small enough for a CPU, over a backbone of five blocks that the leaf configs name.
_base_ = "./upernet_light.py"
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        _delete_=True,
        depths=(1, 1, 2, 1),
        dims=(32, 64, 128, 256),
        drop_path_rate=0.0,
        out_indices=(0, 1, 2, 3),
    ),
    decode_head=dict(in_channels=[32, 64, 128, 256], num_classes=3),
    auxiliary_head=dict(in_channels=128, num_classes=3),
    test_cfg=dict(crop_size=(128, 128), stride=(85, 85)),
)

# UPerNet with narrow heads for images of 256x256 and eleven classes.
_base_ = "./upernet.py"
model = dict(
    data_preprocessor=dict(size=(256, 256)),
    decode_head=dict(channels=128, num_classes=11),
    auxiliary_head=dict(channels=64, num_classes=11),
    test_cfg=dict(crop_size=(256, 256), stride=(170, 170)),
)

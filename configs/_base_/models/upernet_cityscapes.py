# UPerNet for Cityscapes with 19 classes and training crops of 512x1024.
_base_ = "./upernet.py"
model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    decode_head=dict(num_classes=19),
    auxiliary_head=dict(num_classes=19),
    test_cfg=dict(crop_size=(512, 1024), stride=(341, 683)),
)

# UPerNet with an auxiliary FCN head on the third stage (Xiao et al. 2018), as mmseg defines it for Swin. The heads and
# the preprocessor compute the same as mmseg's but train faster. A leaf config adds the backbone and its widths.
# Sliding-window test: --cfg-options model.test_cfg.mode=slide
_base_ = ["mmseg::_base_/models/upernet_swin.py"]
model = dict(
    data_preprocessor=dict(type="ssm_train.tasks.segmentation.StackedSegDataPreProcessor", size=(512, 512)),
    backbone=dict(_delete_=True, out_indices=(0, 1, 2, 3)),
    decode_head=dict(type="ssm_train.tasks.segmentation.FastUPerHead", num_classes=150),
    auxiliary_head=dict(type="ssm_train.tasks.segmentation.FastFCNHead", num_classes=150),
    test_cfg=dict(mode="whole", crop_size=(512, 512), stride=(341, 341)),
)

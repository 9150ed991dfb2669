# UPerNet with an FCN auxiliary head on the third stage (Xiao et al. 2018), as mmseg has it for Swin, with the same
# heads and preprocessor made faster to train; leaf configs put in the backbone and its widths.
# Slide mode: --cfg-options model.test_cfg.mode=slide
_base_ = ["mmseg::_base_/models/upernet_swin.py"]
model = dict(
    data_preprocessor=dict(type="ssm_train.tasks.segmentation.StackedSegDataPreProcessor", size=(512, 512)),
    decode_head=dict(type="ssm_train.tasks.segmentation.FastUPerHead", num_classes=150),
    auxiliary_head=dict(type="ssm_train.tasks.segmentation.FastFCNHead", num_classes=150),
    test_cfg=dict(mode="whole", crop_size=(512, 512), stride=(341, 341)),
)

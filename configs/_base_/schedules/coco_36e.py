# 3x: 36 epochs of AdamW, a tenth of the rate after 27 and after 33; 263,880 iterations at 8 GPUs x 2 images.
_base_ = "./coco_12e.py"
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
train_cfg = dict(max_epochs=36)

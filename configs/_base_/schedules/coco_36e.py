# The 3x schedule has 36 epochs of AdamW. The rate falls to a tenth after epoch 27 and again after epoch 33. With 8 GPUs
# x 2 images the training has 263,880 iterations.
_base_ = "./coco_12e.py"
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
train_cfg = dict(max_epochs=36)

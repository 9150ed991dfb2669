# The 12 epochs of coco_12e.py with DINO's decay and its clipped gradients. The rate falls to a tenth after epoch 11.
# The backbone, which starts from ImageNet, has a tenth of the rate of the rest.
_base_ = "./coco_12e.py"
optim_wrapper = dict(
    optimizer=dict(weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1),
    paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.1)}),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=12, milestones=[11], gamma=0.1),
]

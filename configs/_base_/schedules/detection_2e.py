# 2 epochs of AdamW from random weights. On the 12,000 composited images at batch 16 an epoch has 750 iterations, and
# the training has 1,500. The first 250 iterations warm up.
max_epochs = 2
optim_wrapper = dict(
    type="ssm_train.GuardedOptimWrapper",
    constructor="ssm_train.TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", fused=True, lr=7e-4, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, begin=0, end=250),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-2, begin=0, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(type="ssm_train.ResumableEpochLoop", max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()

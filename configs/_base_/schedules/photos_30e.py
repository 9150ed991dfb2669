# 30 epochs of AdamW on 9,000 crops. At batch 128 an epoch has 70 iterations, and the training has 2,100. The first 140
# iterations warm up.
max_epochs, warmup = 30, 2
optim_wrapper = dict(
    type="GuardedOptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", fused=True, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, begin=0, end=warmup, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-2, begin=warmup, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(type="ResumableEpochLoop", max_epochs=max_epochs, val_interval=5)
val_cfg = dict()
test_cfg = dict()
# The hook averages the weights over about 200 iterations. Validation tests the average.
custom_hooks = [dict(type="EMAHook", ema_type="ForeachExponentialMovingAverage", momentum=5e-3, update_buffers=True)]

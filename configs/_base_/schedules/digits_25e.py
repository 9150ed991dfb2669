# 25 epochs of AdamW on 1,438 images. At batch 32 an epoch has 44 iterations, and the training has 1,100. The first 88
# iterations warm up.
max_epochs, warmup = 25, 2
optim_wrapper = dict(
    type="GuardedOptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, begin=0, end=warmup, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-2, begin=warmup, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(type="ResumableEpochLoop", max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()

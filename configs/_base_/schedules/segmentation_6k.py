# 6,000 iterations of AdamW from random weights. At batch 64 they are 8 passes over 48,000 images. The first 250 warm
# up, and then the rate falls linearly to 0. In a trial at 64x64, a rate of 3e-3 reached in 500 iterations the result
# that 1e-3 reached in 1,000.
optim_wrapper = dict(
    type="ssm_train.GuardedOptimWrapper",
    constructor="ssm_train.TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", fused=True, lr=3e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, begin=0, end=250),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=250, end=6000),
]
train_cfg = dict(type="ssm_train.ResumableIterLoop", max_iters=6000, val_interval=2000)
val_cfg = dict()
test_cfg = dict()

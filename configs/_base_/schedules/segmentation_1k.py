# 1,000 iterations of AdamW from random weights. The first 100 warm up, and then the rate falls linearly to 0.
optim_wrapper = dict(
    type="ssm_train.GuardedOptimWrapper",
    constructor="ssm_train.TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, begin=0, end=100),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=100, end=1000),
]
train_cfg = dict(type="ssm_train.ResumableIterLoop", max_iters=1000, val_interval=250)
val_cfg = dict()
test_cfg = dict()

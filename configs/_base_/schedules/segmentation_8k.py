# 8,000 iterations of AdamW from nothing: at batch 16 they are 21 passes over 6,000 images. 500 warm up, then linearly
# to 0.
optim_wrapper = dict(
    type="ssm_core.GuardedOptimWrapper",
    constructor="ssm_core.TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=5e-4, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, begin=0, end=500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=500, end=8000),
]
train_cfg = dict(type="ssm_core.ResumableIterLoop", max_iters=8000, val_interval=1000)
val_cfg = dict()
test_cfg = dict()

# 160,000 iterations of AdamW with 8 GPUs x 2 images. The first 1,500 warm up, and then the rate falls linearly to 0. As
# in the authors' recipe, parameters with "norm" in their name do not decay.
optim_wrapper = dict(
    type="ssm_train.GuardedOptimWrapper",
    constructor="ssm_train.TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", fused=True, lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(no_decay_keys=["norm"]),
)
auto_scale_lr = dict(base_batch_size=16, enable=False)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=160000),
]
train_cfg = dict(type="ssm_train.ResumableIterLoop", max_iters=160000, val_interval=16000)
val_cfg = dict()
test_cfg = dict()

# 1x: 12 epochs of AdamW, a tenth of the rate after 8 and after 11. lr = 1e-4 * batch / 16, scaled by auto_scale_lr.
# At 8 GPUs x 2 images: 117,266 / 16 = 7,330 iterations an epoch, 87,960 in all, of which 1,000 warm up.
# Norms do not decay, all else does. The keys are those of the authors' list (VMamba's), which misses the norms of the
# stem, of downsampling and of the quadrant predictors: optim_wrapper.paramwise_cfg.norms_too=False for exactly that;
# optim_wrapper.paramwise_cfg=none for timm's rule, under which biases and the dynamics of scans do not decay either.
optim_wrapper = dict(
    type="ssm_train.GuardedOptimWrapper",
    constructor="ssm_train.TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", fused=True, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(no_decay_keys=[r"\.blocks\.\d+\.norm", r"\.out_norm"], norms_too=True),
)
auto_scale_lr = dict(base_batch_size=16, enable=True)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
train_cfg = dict(type="ssm_train.ResumableEpochLoop", max_epochs=12, val_interval=1)
val_cfg = dict()
test_cfg = dict()

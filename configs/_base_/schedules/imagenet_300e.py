# 300 epochs of AdamW. auto_scale_lr sets the rate to 1e-3 * batch / 1024, where the batch is that of all processes
# together. With 8 GPUs x 128 images an epoch has 1,281,167 / 1024 = 1,251 iterations, and the training has 375,300. The
# first 25,020 iterations warm up, and then a cosine over 280 epochs leads to 1e-5. MambaTree has its own schedule.
max_epochs, warmup = 300, 20
optim_wrapper = dict(
    type="GuardedOptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", fused=True, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
auto_scale_lr = dict(base_batch_size=1024, enable=True)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, begin=0, end=warmup, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-2, begin=warmup, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(type="ResumableEpochLoop", max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
custom_hooks = [dict(type="EMAHook", ema_type="ForeachExponentialMovingAverage", momentum=1e-4, update_buffers=True)]

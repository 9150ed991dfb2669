# One epoch in bf16 has 20 updates of warm-up and then a constant rate. An update sums the gradients of 4 iterations. An
# iteration has 4 rows, so an update has 16. Schedules count iterations, so the warm-up has 20 * 4 of them.
accumulation = 4
optim_wrapper = dict(
    type="GuardedOptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=2e-5, betas=(0.9, 0.999), weight_decay=0.0),
    accumulative_counts=accumulation,
    dtype="bfloat16",
)
param_scheduler = [dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20 * accumulation)]
train_cfg = dict(type="ResumableEpochLoop", max_epochs=1, val_interval=1)

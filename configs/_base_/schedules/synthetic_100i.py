# 100 iterations of AdamW at a constant rate.
optim_wrapper = dict(
    type="GuardedOptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    dtype="bfloat16",
    optimizer=dict(type="AdamW", fused=True, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
train_cfg = dict(type="ResumableEpochLoop", max_epochs=1, val_interval=1)
val_cfg = dict()
test_cfg = dict()

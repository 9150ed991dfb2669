# The 1x schedule has 12 epochs of AdamW. The rate falls to a tenth after epoch 8 and again after epoch 11.
# auto_scale_lr sets it to 1e-4 * batch / 16. With 8 GPUs x 2 images an epoch has 117,266 / 16 = 7,330 iterations, and
# the training has 87,960. The first 1,000 iterations warm up.
# Norms do not decay, but everything else does. The keys are the authors' (VMamba's). They miss the norms of the stem,
# of downsampling and of the quadrant predictors, and norms_too adds those. There are two other rules:
#   --cfg-options optim_wrapper.paramwise_cfg.norms_too=False   the authors' keys and nothing else
#   --cfg-options optim_wrapper.paramwise_cfg=none              timm's rule: biases, A_log and D do not decay either
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

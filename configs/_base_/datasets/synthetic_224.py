# Noise at 224x224, for measuring the speed of the whole training loop: nothing is learnt.
train_dataloader = dict(
    batch_size=128,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="ssm_core.collate_images"),
    num_batch_per_epoch=100,
    dataset=dict(type="SyntheticImages"),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="ssm_core.collate_images"),
    dataset=dict(type="SyntheticImages", length=256),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator

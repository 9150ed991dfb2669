# Settings that all loaders of classified images share. The files that inherit this one set datasets, batch sizes and
# processes.
train_dataloader = dict(
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="ssm_train.collate_images"),
)
val_dataloader = dict(
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="ssm_train.collate_images"),
)
test_dataloader = val_dataloader

# Settings that all datasets of small images with masks share. They are in COCO's format: DATA/train, DATA/train.json,
# DATA/val, DATA/val.json. The files that inherit this one set pipelines, folders, batch sizes and processes.
train_dataloader = dict(
    drop_last=True,
    collate_fn=dict(type="ssm_train.tasks.detection.stack_objects"),
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ssm_train.tasks.detection.CocoInstances",
        ann_file="train.json",
        data_prefix=dict(img="train"),
        filter_cfg=dict(filter_empty_gt=True),
    ),
)
val_dataloader = dict(
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ssm_train.tasks.detection.CocoInstances",
        ann_file="val.json",
        data_prefix=dict(img="val"),
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="ssm_train.tasks.detection.CocoInstanceMetric", metric=["bbox", "segm"])
test_evaluator = val_evaluator

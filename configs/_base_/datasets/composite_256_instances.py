# Fashion-MNIST items composited onto photos at 256x256: the first 12,000 images of 48,000 to train on, 500 to validate;
# 10 classes, objects of about 30 to 130 pixels. `python tools/prepare_data.py composite` makes them.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(256, 256), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(256, 256), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ssm_train.tasks.detection.CocoInstances",
        data_root="data/composite",
        ann_file="train.json",
        data_prefix=dict(img="train"),
        indices=12000,
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ssm_train.tasks.detection.CocoInstances",
        data_root="data/composite",
        ann_file="val.json",
        data_prefix=dict(img="val"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="ssm_train.tasks.detection.CocoInstanceMetric", ann_file="data/composite/val.json", metric=["bbox", "segm"]
)
test_evaluator = val_evaluator

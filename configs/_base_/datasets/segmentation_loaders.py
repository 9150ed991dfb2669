# Settings that all datasets of small images with a label for every pixel share. Images are in DATA/train and DATA/val,
# and labels are in DATA/train_labels and DATA/val_labels. The files that inherit this one set classes, folders,
# training pipelines and batch sizes.
train_dataloader = dict(
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    collate_fn=dict(type="ssm_train.tasks.segmentation.stack_samples"),
    dataset=dict(
        type="ssm_train.tasks.segmentation.SegmentationFolder",
        data_prefix=dict(img_path="train", seg_map_path="train_labels"),
    ),
)
val_dataloader = dict(
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ssm_train.tasks.segmentation.SegmentationFolder",
        data_prefix=dict(img_path="val", seg_map_path="val_labels"),
        test_mode=True,
        pipeline=[dict(type="ssm_train.LoadImage"), dict(type="ssm_train.LoadLabelMap"), dict(type="PackSegInputs")],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="ssm_train.tasks.segmentation.SegmentationMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator

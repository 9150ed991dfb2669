# Cityscapes with training crops of 512x1024 and 2 images per GPU. Validation takes whole images of 1024x2048.
_base_ = ["mmseg::_base_/datasets/cityscapes.py"]
# The pipelines are mmseg's, with the steps of this project to read images and label maps.
train_pipeline = [
    dict(type="ssm_train.LoadImage"),
    dict(type="ssm_train.LoadLabelMap"),
    dict(type="RandomResize", scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 1024), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="ssm_train.LoadImage"),
    dict(type="Resize", scale=(2048, 1024), keep_ratio=True),
    dict(type="ssm_train.LoadLabelMap"),
    dict(type="PackSegInputs"),
]
tta_pipeline = [
    dict(type="ssm_train.LoadImage"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale_factor=ratio, keep_ratio=True) for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)],
            [
                dict(type="RandomFlip", prob=0.0, direction="horizontal"),
                dict(type="RandomFlip", prob=1.0, direction="horizontal"),
            ],
            [dict(type="ssm_train.LoadLabelMap")],
            [dict(type="PackSegInputs")],
        ],
    ),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=None,  # follows from the cores of the machine
    pin_memory=True,
    collate_fn=dict(type="ssm_train.tasks.segmentation.stack_samples"),
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type="ssm_train.tasks.segmentation.SegmentationMetric")
test_evaluator = val_evaluator

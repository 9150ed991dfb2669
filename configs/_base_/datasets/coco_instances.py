# COCO 2017 at 1333x800 with 2 images per GPU. The number of loading processes (None) follows from the cores of the
# machine.
_base_ = "mmdet::_base_/datasets/coco_instance.py"
train_pipeline = [
    dict(type="ssm_train.LoadImage"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="ssm_train.LoadImage"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    num_workers=None,
    pin_memory=True,
    collate_fn=dict(type="ssm_train.tasks.detection.stack_objects"),
    dataset=dict(type="ssm_train.tasks.detection.CocoInstances", pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=4, dataset=dict(type="ssm_train.tasks.detection.CocoInstances", pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = dict(type="ssm_train.tasks.detection.CocoInstanceMetric")
test_evaluator = val_evaluator

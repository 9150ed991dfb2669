# COCO 2017 at exactly 640x640, so that a compiled network sees one shape. Only the boxes are read.
_base_ = "./coco_boxes.py"
train_pipeline = [
    dict(type="ssm_train.LoadImage"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="ssm_train.tasks.detection.FixedSize", size=(640, 640)),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="ssm_train.LoadImage"),
    dict(type="ssm_train.tasks.detection.FixedSize", size=(640, 640)),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

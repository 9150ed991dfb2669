# COCO 2017. In training the shorter side has 480 to 800 pixels, and the longer side has at most 1333.
_base_ = "./coco_instances.py"
scales = [(1333, side) for side in range(480, 801, 32)]
train_pipeline = [
    dict(type="ssm_train.LoadImage"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomChoiceResize", scales=scales, keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

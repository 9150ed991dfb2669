# Nuclei (tools/prepare_data.py nuclei): 35 overlapping tiles of 128x128 to train on, 4 to validate.
metainfo = dict(classes=("background", "nucleus", "boundary"), palette=[(0, 0, 0), (31, 119, 180), (255, 127, 14)])
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    collate_fn=dict(type="ssm_train.tasks.segmentation.stack_samples"),
    dataset=dict(
        type="BaseSegDataset",
        data_root="data/nuclei",
        data_prefix=dict(img_path="train", seg_map_path="train_labels"),
        img_suffix=".png",
        metainfo=metainfo,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
            dict(type="PackSegInputs"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="BaseSegDataset",
        data_root="data/nuclei",
        data_prefix=dict(img_path="val", seg_map_path="val_labels"),
        img_suffix=".png",
        metainfo=metainfo,
        test_mode=True,
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator

# Cityscapes with training crops of 512x1024 and 2 images per GPU. Validation takes whole images of 1024x2048.
_base_ = ["mmseg::_base_/datasets/cityscapes.py"]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    pin_memory=True,
    collate_fn=dict(type="ssm_train.tasks.segmentation.stack_samples"),
)
val_evaluator = dict(type="ssm_train.tasks.segmentation.SegmentationMetric")
test_evaluator = val_evaluator

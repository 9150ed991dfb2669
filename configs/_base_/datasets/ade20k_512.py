# ADE20K with training crops of 512x512 and 2 images per GPU. Validation images have a shorter side of 512.
_base_ = ["mmseg::_base_/datasets/ade20k.py"]
train_dataloader = dict(
    batch_size=2, pin_memory=True, collate_fn=dict(type="ssm_train.tasks.segmentation.stack_samples")
)
val_evaluator = dict(type="ssm_train.tasks.segmentation.SegmentationMetric")
test_evaluator = val_evaluator

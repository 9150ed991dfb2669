# Cityscapes at 512x1024, 2 images a GPU; whole images of 1024x2048 for validation.
_base_ = ["mmseg::_base_/datasets/cityscapes.py"]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    pin_memory=True,
    collate_fn=dict(type="ssm_train.tasks.segmentation.stack_samples"),
)

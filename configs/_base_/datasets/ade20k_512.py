# ADE20K at 512x512, 2 images a GPU; the shorter side 512 for validation.
_base_ = ["mmseg::_base_/datasets/ade20k.py"]
train_dataloader = dict(
    batch_size=2, pin_memory=True, collate_fn=dict(type="ssm_train.tasks.segmentation.stack_samples")
)

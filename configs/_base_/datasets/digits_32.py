# scikit-learn's digits have one channel. They are enlarged from 8x8 to 32x32. 1,438 images are for training and 359 for
# testing.
_base_ = "./image_loaders.py"
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    dataset=dict(
        type="Digits",
        split="train",
        size=32,
        transform=dict(
            type="TrainTransform", size=32, scale=(0.7, 1.0), ratio=(0.9, 1.1), hflip=0.0, mean=(0.31,), std=(0.35,)
        ),
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    dataset=dict(
        type="Digits",
        split="test",
        size=32,
        transform=dict(type="TestTransform", size=32, crop_ratio=1.0, mean=(0.31,), std=(0.35,)),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator

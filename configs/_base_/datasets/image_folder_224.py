# Your own images at 224x224: ROOT/train/<class>/<image> and ROOT/val/<class>/<image>.
_base_ = "./image_loaders.py"
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    dataset=dict(
        type="ImageFolder",
        root="data/images",
        split="train",
        transform=dict(
            type="TrainTransform", size=224, auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25, on_device=True
        ),
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    dataset=dict(
        type="ImageFolder",
        root="data/images",
        split="val",
        transform=dict(type="TestTransform", size=224, crop_ratio=0.875),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1, 5))
test_evaluator = val_evaluator

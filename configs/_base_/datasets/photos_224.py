# Crops of 15 photographs at 224x224 (tree-ssm prepare-data photos): 9,000 for training and 600 for validation, which
# come from another part of each photograph. A class is a photograph. The crops are 256x256.
_base_ = "./image_loaders.py"
train_dataloader = dict(
    batch_size=128,
    num_workers=6,
    dataset=dict(
        type="ImageFolder",
        root="data/photos",
        split="train",
        transform=dict(
            type="TrainTransform",
            size=224,
            scale=(0.25, 1.0),
            auto_augment="rand-m9-mstd0.5-inc1",
            random_erasing=0.25,
            on_device=True,
        ),
    ),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=2,
    dataset=dict(
        type="ImageFolder",
        root="data/photos",
        split="val",
        transform=dict(type="TestTransform", size=224, crop_ratio=0.875),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator

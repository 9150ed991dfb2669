# ImageNet-1k at 224x224 with 128 images per GPU. Validation resizes to 256 and crops the centre. The number of loading
# processes (None) follows from the cores of the machine.
_base_ = "./image_loaders.py"
train_dataloader = dict(
    batch_size=128,
    num_workers=None,
    dataset=dict(
        type="ImageNet",
        root="data/imagenet",
        split="train",
        transform=dict(
            type="TrainTransform",
            size=224,
            color_jitter=0.4,  # timm drops it while RandAugment is on
            auto_augment="rand-m9-mstd0.5-inc1",
            random_erasing=0.25,
            on_device=True,
        ),
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=None,
    dataset=dict(
        type="ImageNet",
        root="data/imagenet",
        split="val",
        transform=dict(type="TestTransform", size=224, crop_ratio=0.875),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1, 5))
test_evaluator = val_evaluator

# Fashion-MNIST has one channel. Its images are enlarged from 28x28 to 64x64, so that the first stage has 16x16 tokens.
# 60,000 images are for training and 10,000 for testing.
_base_ = "./image_loaders.py"
train_dataloader = dict(
    batch_size=512,
    num_workers=2,
    dataset=dict(
        type="FashionMNIST",
        root="data/fashion-mnist",
        split="train",
        transform=dict(
            type="TrainTransform",
            size=64,
            scale=(0.7, 1.0),
            ratio=(0.9, 1.1),
            random_erasing=0.4,
            mean=(0.2860,),
            std=(0.3530,),
        ),
    ),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=2,
    dataset=dict(
        type="FashionMNIST",
        root="data/fashion-mnist",
        split="test",
        transform=dict(type="TestTransform", size=64, crop_ratio=1.0, mean=(0.2860,), std=(0.3530,)),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator

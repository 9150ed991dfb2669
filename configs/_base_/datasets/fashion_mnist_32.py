# Fashion-MNIST, one channel, 28x28 enlarged to 32x32: 60,000 images to train on, 10,000 to test.
train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="FashionMNIST",
        root="data/fashion-mnist",
        split="train",
        transform=dict(
            type="TrainTransform",
            size=32,
            scale=(0.7, 1.0),
            ratio=(0.9, 1.1),
            random_erasing=0.1,
            mean=(0.2860,),
            std=(0.3530,),
        ),
    ),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="FashionMNIST",
        root="data/fashion-mnist",
        split="test",
        transform=dict(type="TestTransform", size=32, crop_ratio=1.0, mean=(0.2860,), std=(0.3530,)),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator

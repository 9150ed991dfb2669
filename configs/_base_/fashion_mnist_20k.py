# The first 20,000 training images of Fashion-MNIST and eight epochs, for studies of many short runs. All 10,000 test
# images are for testing. Images stay in memory. Whole batches are enlarged from 28x28 to 64x64, cropped and flipped on
# the device, so that a loader needs no process of its own. A leaf config adds the backbone.
_base_ = "./classification_runtime.py"

max_epochs, warmup = 8, 1
model = dict(type="ImageClassifier", backbone=dict(in_chans=1, num_classes=10), label_smoothing=0.1)
train_dataloader = dict(
    batch_size=256,
    num_workers=0,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="ssm_train.collate_images"),
    dataset=dict(
        type="ImageArrays",
        images="data/fashion-mnist/train-images-idx3-ubyte.gz",
        labels="data/fashion-mnist/train-labels-idx1-ubyte.gz",
        classes=["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
        first=20000,
        transform=dict(type="BatchTransform", size=64, mean=(0.2860,), std=(0.3530,)),
    ),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="ssm_train.collate_images"),
    dataset=dict(
        type="ImageArrays",
        images="data/fashion-mnist/t10k-images-idx3-ubyte.gz",
        labels="data/fashion-mnist/t10k-labels-idx1-ubyte.gz",
        classes=["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
        transform=dict(type="TestTransform", size=64, crop_ratio=1.0, mean=(0.2860,), std=(0.3530,)),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator
optim_wrapper = dict(
    type="GuardedOptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", fused=True, lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, begin=0, end=warmup, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-2, begin=warmup, end=max_epochs, convert_to_iter_based=True),
]
# The one validation is after the last epoch. A run of a minute needs neither pictures nor checkpoints on its way.
train_cfg = dict(type="ResumableEpochLoop", max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(
    checkpoint=dict(interval=max_epochs),
    class_report=dict(picture=False),
    curves=dict(plot=False),
    pictures=dict(count=0),
)
visualizer = dict(tensorboard=False)

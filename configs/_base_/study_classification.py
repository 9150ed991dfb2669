# Settings for studies of many short runs of classifiers. Images stay in memory, and whole batches are augmented on the
# device, so that a loader needs no process of its own. The classes are those of Fashion-MNIST. The files that inherit
# this one add the arrays, batch sizes, and the length of the training.
_base_ = "./classification_runtime.py"

model = dict(type="ImageClassifier", label_smoothing=0.1)
train_dataloader = dict(
    dataset=dict(
        type="ImageArrays",
        classes=["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
    ),
    num_workers=0,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="ssm_train.collate_images"),
)
val_dataloader = dict(
    dataset=train_dataloader["dataset"],
    batch_size=500,
    num_workers=0,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="ssm_train.collate_images"),
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
val_cfg = dict()
test_cfg = dict()
# A run of a minute needs neither pictures nor checkpoints on its way.
default_hooks = dict(class_report=dict(picture=False), curves=dict(plot=False), pictures=dict(count=0))
visualizer = dict(tensorboard=False)

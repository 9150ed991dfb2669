# Noise at 224x224. It serves to measure the speed of the whole training loop. There is nothing to learn.
_base_ = "./image_loaders.py"
train_dataloader = dict(
    batch_size=128,
    num_workers=4,
    num_batch_per_epoch=100,
    dataset=dict(type="SyntheticImages"),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=4,
    dataset=dict(type="SyntheticImages", length=256),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator

# Your own images. A config of yours inherits from this file and names their folder and the number of classes, as
# docs/start.md shows. To start from pretrained weights, add --cfg-options load_from=CHECKPOINT.
_base_ = [
    "../_base_/models/quadmamba.py",
    "../_base_/datasets/image_folder_224.py",
    "../_base_/schedules/fine_tune_30e.py",
    "../_base_/classification_runtime.py",
]
data_root, num_classes = "data/images", 10

model = dict(backbone=dict(arch="tiny", num_classes=num_classes), label_smoothing=0.1)
train_dataloader = dict(dataset=dict(root=data_root))
val_dataloader = dict(dataset=dict(root=data_root))
test_dataloader = val_dataloader

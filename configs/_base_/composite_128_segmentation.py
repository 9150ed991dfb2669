# UPerNet on composited scenes of 128x128, 500 iterations, for studies of many short runs. The data are those of
# largest_item_128.py, of whose validation scenes 1,000 are used. A leaf config adds the backbone and its widths.
_base_ = [
    "./models/upernet_light.py",
    "./datasets/composite_256_segmentation.py",
    "./schedules/segmentation_6k.py",
    "./segmentation_runtime.py",
]
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    decode_head=dict(channels=96),
    auxiliary_head=dict(channels=48),
    test_cfg=dict(crop_size=(128, 128), stride=(85, 85)),
)
train_dataloader = dict(batch_size=32, num_workers=1, dataset=dict(data_root="data/128px/composite"))
val_dataloader = dict(batch_size=50, num_workers=1, dataset=dict(data_root="data/128px/composite", indices=1000))
test_dataloader = val_dataloader
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, begin=0, end=100),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=100, end=500),
]
train_cfg = dict(max_iters=500, val_interval=500)
default_hooks = dict(
    checkpoint=dict(interval=500),
    class_report=dict(picture=False),
    curves=dict(plot=False),
    pictures=dict(count=0),
)
visualizer = dict(tensorboard=False)

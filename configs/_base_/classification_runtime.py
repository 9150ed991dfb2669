_base_ = "./default_runtime.py"

default_hooks = dict(
    checkpoint=dict(save_best="top1"),
    class_count=dict(type="ClassCountHook"),
    model_start=dict(type="ModelStartHook"),
    unreadable=dict(type="UnreadableImagesHook"),
    pictures=dict(type="PicturesHook", count=4),
)

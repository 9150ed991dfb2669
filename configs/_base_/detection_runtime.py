# What training a detector shares, whatever the data and schedule.
_base_ = "./default_runtime.py"

default_scope = "mmdet"
default_hooks = dict(
    checkpoint=dict(save_best="coco/bbox_mAP"),
    class_count=dict(type="ssm_core.ClassCountHook"),
    unreadable=dict(type="ssm_core.UnreadableImagesHook"),
    pictures=dict(type="ssm_core.PicturesHook", count=4),
)
visualizer = dict(type="ssm_core.engine.detection.DetectionVisualizer")

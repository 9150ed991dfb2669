# Settings that all trainings of detectors share.
_base_ = "./default_runtime.py"

default_scope = "mmdet"
default_hooks = dict(
    checkpoint=dict(save_best="coco/bbox_mAP"),
    class_count=dict(type="ssm_train.ClassCountHook"),
    unreadable=dict(type="ssm_train.UnreadableImagesHook"),
    pictures=dict(type="ssm_train.PicturesHook", count=4),
)
visualizer = dict(type="ssm_train.tasks.detection.DetectionVisualizer")

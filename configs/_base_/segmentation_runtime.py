# Settings that all trainings of segmentors share.
_base_ = "./default_runtime.py"

default_scope = "mmseg"
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=16000, save_best="mIoU"),
    class_count=dict(type="ssm_train.ClassCountHook"),
    label_maps=dict(type="ssm_train.LabelMapsHook"),
    unreadable=dict(type="ssm_train.UnreadableImagesHook"),
    pictures=dict(type="ssm_train.PicturesHook", count=4),
)
log_processor = dict(by_epoch=False)
visualizer = dict(type="ssm_train.tasks.segmentation.SegmentationVisualizer")
tta_model = dict(type="ssm_train.tasks.segmentation.AugmentedSegmentor")

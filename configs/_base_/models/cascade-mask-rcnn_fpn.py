# Cascade Mask R-CNN with FPN (Cai and Vasconcelos 2018), as mmdet defines it, with the faster training step of
# mask-rcnn_fpn.py. A leaf config adds the backbone and its widths.
_base_ = "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py"
model = dict(
    type="ssm_train.tasks.detection.FastTwoStageDetector",
    data_preprocessor=dict(type="ssm_train.tasks.detection.AnyDetDataPreprocessor"),
    backbone=dict(_delete_=True, out_indices=(0, 1, 2, 3)),
    rpn_head=dict(type="ssm_train.tasks.detection.FastRPNHead"),
    roi_head=dict(
        type="ssm_train.tasks.detection.FastCascadeRoIHead",
        bbox_roi_extractor=dict(type="ssm_train.tasks.detection.Float32RoIExtractor"),
        mask_roi_extractor=dict(type="ssm_train.tasks.detection.Float32RoIExtractor"),
    ),
)

# Mask R-CNN with FPN (He et al. 2017), as mmdet defines it. A leaf config adds the backbone and its widths.
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"
model = dict(
    data_preprocessor=dict(type="ssm_train.tasks.detection.AnyDetDataPreprocessor"),
    backbone=dict(_delete_=True, out_indices=(0, 1, 2, 3)),
    roi_head=dict(
        bbox_roi_extractor=dict(type="ssm_train.tasks.detection.Float32RoIExtractor"),
        mask_roi_extractor=dict(type="ssm_train.tasks.detection.Float32RoIExtractor"),
    ),
)

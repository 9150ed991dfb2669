# Mask R-CNN with FPN (He et al. 2017), as mmdet has it; leaf configs put in the backbone and its widths.
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"
model = dict(
    roi_head=dict(
        bbox_roi_extractor=dict(type="ssm_train.tasks.detection.Float32RoIExtractor"),
        mask_roi_extractor=dict(type="ssm_train.tasks.detection.Float32RoIExtractor"),
    ),
)

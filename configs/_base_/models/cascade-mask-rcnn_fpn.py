# Cascade Mask R-CNN with FPN (Cai and Vasconcelos 2018), as mmdet has it.
_base_ = "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py"
model = dict(
    roi_head=dict(
        bbox_roi_extractor=dict(type="ssm_train.tasks.detection.Float32RoIExtractor"),
        mask_roi_extractor=dict(type="ssm_train.tasks.detection.Float32RoIExtractor"),
    ),
)

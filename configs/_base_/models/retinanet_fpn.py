# RetinaNet with FPN (Lin et al. 2017), as mmdet defines it. A leaf config adds the backbone and its widths. The neck
# does not use the first stage, so the backbone leaves it out: parameters without gradients stop data parallelism.
_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"
model = dict(
    data_preprocessor=dict(type="ssm_train.tasks.detection.AnyDetDataPreprocessor"),
    backbone=dict(_delete_=True, out_indices=(1, 2, 3)),
    neck=dict(start_level=0),
)

# Faster R-CNN with FPN (Lin et al. 2017): Mask R-CNN without its mask head. A leaf config adds the backbone and its
# widths.
_base_ = "./mask-rcnn_fpn.py"
model = dict(roi_head=dict(mask_roi_extractor=None, mask_head=None))

# Faster R-CNN small enough for a CPU: the small Mask R-CNN without its mask head. A leaf config names the family.
_base_ = "./mask-rcnn_fpn_nano_nuclei.py"
model = dict(roi_head=dict(mask_roi_extractor=None, mask_head=None))

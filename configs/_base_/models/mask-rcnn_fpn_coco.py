# Mask R-CNN for COCO at 1333x800. Batches are padded to one of a few shapes, which a compiled network then sees alone.
# Most of COCO's images are 4:3 or 3:2, and all images of a batch are either wide or high.
_base_ = "./mask-rcnn_fpn.py"
model = dict(
    data_preprocessor=dict(
        pad_shapes=[(800, 1088), (800, 1216), (800, 1344), (1088, 800), (1216, 800), (1344, 800)],
    ),
)

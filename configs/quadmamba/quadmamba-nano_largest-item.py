# The network of quadmamba-nano_fmnist-20k.py, for images in colours.
_base_ = "../_base_/largest_item_128.py"
model = dict(backbone=dict(type="quadtree_ssm.QuadMamba", arch="nano", depths=(2, 2, 2, 1)))

# The map is split into four quadrants, and none of them is split again.
_base_ = "../quadmamba-lite_8xb128_in1k.py"
model = dict(backbone=dict(quadtree_levels=1))

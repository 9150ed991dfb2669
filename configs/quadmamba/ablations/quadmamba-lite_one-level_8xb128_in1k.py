# Four quadrants, none of them split again.
_base_ = "../quadmamba-lite_8xb128_in1k.py"
model = dict(backbone=dict(quadtree_levels=1))

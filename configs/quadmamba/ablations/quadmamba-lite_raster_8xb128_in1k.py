# There is no quadtree: stages 1 and 2 scan row by row.
_base_ = "../quadmamba-lite_8xb128_in1k.py"
model = dict(backbone=dict(quadtree_levels=0))

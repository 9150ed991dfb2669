# The weight of an edge is the Manhattan distance.
_base_ = "../mambatree-tiny_8xb128_in1k.py"
model = dict(backbone=dict(guide_distance="manhattan"))

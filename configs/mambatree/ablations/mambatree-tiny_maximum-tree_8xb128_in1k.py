# The tree is a maximum spanning tree, which joins the least similar tokens.
_base_ = "../mambatree-tiny_8xb128_in1k.py"
model = dict(backbone=dict(tree_kind="maximum"))

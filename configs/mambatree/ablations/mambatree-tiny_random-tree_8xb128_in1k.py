# The tree is random and independent of the features.
_base_ = "../mambatree-tiny_8xb128_in1k.py"
model = dict(backbone=dict(tree_kind="random"))

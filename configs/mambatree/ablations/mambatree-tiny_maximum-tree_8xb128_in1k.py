# The tree that joins what is least alike.
_base_ = "../mambatree-tiny_8xb128_in1k.py"
model = dict(backbone=dict(tree_kind="maximum"))

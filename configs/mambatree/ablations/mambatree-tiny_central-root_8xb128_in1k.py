# The root of the tree is the central token.
_base_ = "../mambatree-tiny_8xb128_in1k.py"
model = dict(backbone=dict(tree_root="center"))

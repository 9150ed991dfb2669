# All blocks of a stage share one tree.
_base_ = "../mambatree-tiny_8xb128_in1k.py"
model = dict(backbone=dict(tree_sharing="stage"))

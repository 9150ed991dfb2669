# The tree is the path through the tokens, row by row: what the scan of a sequence would see.
_base_ = "../mambatree-tiny_8xb128_in1k.py"
model = dict(backbone=dict(tree_kind="raster"))

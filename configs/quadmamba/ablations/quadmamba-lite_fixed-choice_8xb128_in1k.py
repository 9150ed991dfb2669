# The first quadrant is always the one that is split again. There is no predictor.
_base_ = "../quadmamba-lite_8xb128_in1k.py"
model = dict(backbone=dict(choice=0))

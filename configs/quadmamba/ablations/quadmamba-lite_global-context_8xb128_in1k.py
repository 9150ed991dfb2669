# The predictor also sees the means of quadrants, as in the first release.
_base_ = "../quadmamba-lite_8xb128_in1k.py"
model = dict(backbone=dict(predictor_context="global"))

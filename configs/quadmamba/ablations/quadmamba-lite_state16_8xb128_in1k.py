# Every channel has sixteen states instead of one.
_base_ = "../quadmamba-lite_8xb128_in1k.py"
model = dict(backbone=dict(d_state=16))

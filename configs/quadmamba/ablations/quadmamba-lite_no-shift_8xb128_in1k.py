# Windows are not shifted in every second block.
_base_ = "../quadmamba-lite_8xb128_in1k.py"
model = dict(backbone=dict(window_shift=False))

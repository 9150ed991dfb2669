# No block shifts its windows.
_base_ = "../quadmamba-lite_8xb128_in1k.py"
model = dict(backbone=dict(window_shift=False))

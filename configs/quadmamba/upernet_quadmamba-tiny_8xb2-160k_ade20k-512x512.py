_base_ = "./upernet_quadmamba-small_8xb2-160k_ade20k-512x512.py"
model = dict(
    backbone=dict(arch="tiny"),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)

_base_ = "./upernet_quadmamba-small_8xb2-160k_ade20k-512x512.py"
model = dict(backbone=dict(arch="base"))

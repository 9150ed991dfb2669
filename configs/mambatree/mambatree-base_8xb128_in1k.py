_base_ = "./mambatree-tiny_8xb128_in1k.py"
model = dict(backbone=dict(arch="base"))

_base_ = "./mamba-130m-lora_alpaca.py"
model = dict(backbone=dict(tree_scale=0.3))
